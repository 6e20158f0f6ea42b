"""The report as one HTML file: no scripts, no links to anything outside, pictures within."""

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jdiff.doctor import charts
from jdiff.doctor.findings import Finding, Findings, Shown, Suspect
from jdiff.doctor.showing import PER_FINDING, PER_SUSPECT
from jdiff.doctor.tables import rows, verdict
from jdiff.doctor.words import EVERYTHING, many

HEADINGS = {"refuse": "Mend before training", "look": "Look at"}
SIZE_BINS = 24

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c1c1c; --faint: #666; --line: #ddd; --card: #f6f6f4;
  --refuse: #b3261e; --look: #9a6700; --fine: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --ground: #161616; --ink: #eaeaea; --faint: #a0a0a0; --line: #3a3a3a;
  --card: #222; --refuse: #ff8a80; --look: #f0c05a; --fine: #81c784; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 16px/1.45 system-ui, sans-serif;
  background: var(--ground); color: var(--ink); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; font-weight: 600; } p { margin: .25rem 0; }
.faint, figcaption { color: var(--faint); font-size: .8rem; } svg text { fill: var(--faint); font-size: 11px; }
.finding { border-left: .3rem solid var(--line); background: var(--card); padding: .5rem .75rem; margin: .5rem 0; }
.refuse { border-color: var(--refuse); } .look { border-color: var(--look); } .fine { border-color: var(--fine); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(5rem, 1fr)); gap: .4rem; margin: .5rem 0; }
.suspects { display: flex; flex-wrap: wrap; gap: .6rem; margin: .5rem 0; }
figure { margin: 0; min-width: 0; } .suspects figure { width: 9rem; }
.copies { display: flex; flex-wrap: wrap; gap: 2px; }
.copies img { width: 4.4rem; }
figcaption { line-height: 1.25; margin-top: .15rem; }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; background: #8883; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
@media (max-width: 40rem) { td, th { display: block; padding: 0; white-space: normal; } th { border: 0; } }
code { font-size: .9em; background: var(--card); padding: .05rem .25rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; } .class { margin: .4rem 0 .8rem; }
""".strip()


def page(findings: Findings, title: str = "What these data are like") -> str:
    """HTML5 in one string, to be written as UTF-8."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{escape(", ".join(f"{count:,} {split}" for split, count in findings.counts.items()))}</p>',
        f"<p><strong>{escape(verdict(findings))}</strong></p>",
        *_findings(findings),
        *_advice(findings),
        *_numbers(findings),
        *_section("Farthest from the rest", [_suspects(findings.farthest, findings)] if findings.farthest else []),
        *_section("Some of the images", [_pictures(findings.grid)] if findings.grid else []),
        *_section("Classes", [_class(name, shown, findings) for name, shown in findings.of_class.items()]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _section(heading: str, parts: list[str]) -> list[str]:
    return [f"<h2>{escape(heading)}</h2>", *parts] if parts else []


def _findings(findings: Findings) -> list[str]:
    parts: list[str] = []
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings.findings if finding.severity == severity]
        parts += _section(heading, [_finding(finding, findings) for finding in found])
    fine = [escape(finding.says) for finding in findings.findings if finding.severity == "fine"]
    if fine:
        parts += _section("Fine", [f'<div class="finding fine">{"; ".join(fine)}.</div>'])
    return parts


def _finding(finding: Finding, findings: Findings) -> str:
    do = f"<p>&rarr; {escape(finding.do)}</p>" if finding.do else ""
    single = all(len(suspect.places) == 1 for suspect in finding.suspects)
    rest = (finding.count if single else len(finding.suspects)) - PER_FINDING
    more = f'<p class="faint">and {rest:,} more, in {EVERYTHING}</p>' if finding.suspects and rest > 0 else ""
    shown = _suspects(finding.suspects[:PER_FINDING], findings) if finding.suspects else ""
    return f'<div class="finding {finding.severity}"><p>{escape(finding.says)}</p>{do}{shown}{more}</div>'


def _suspects(suspects: Iterable[Suspect], findings: Findings) -> str:
    figures = []
    for suspect in suspects:
        known = [findings.suspects[place] for place in suspect.places[:PER_SUSPECT] if place in findings.suspects]
        pictures = "".join(_image(shown) for shown in known)
        names = " = ".join(escape(str(place)) for place in suspect.places[:PER_SUSPECT])
        rest = len(suspect.places) - PER_SUSPECT
        names += f" and {many(rest, 'other')}" if rest > 0 else ""
        inner = f'<div class="copies">{pictures}</div>' if len(known) > 1 else pictures
        figures.append(f"<figure>{inner}<figcaption>{names}: {escape(suspect.why)}</figcaption></figure>")
    return f'<div class="suspects">{"".join(figures)}</div>'


def _advice(findings: Findings) -> list[str]:
    lines = [
        f"<tr><th><code>{escape(advice.key)}={escape(advice.value)}</code></th>"
        f"<td>{'' if advice.change else '(as it is) '}{escape(advice.sure)}: {escape(advice.why)}</td></tr>"
        for advice in findings.advice
    ]
    return _section("Advice", [f"<table>{''.join(lines)}</table>"] if lines else [])


def _numbers(findings: Findings) -> list[str]:
    lines = [f"<tr><th>{escape(what)}</th><td>{escape(how)}</td></tr>" for what, how in rows(findings)]
    drawn = [(f"Values of {name}", charts.values(picture)) for name, picture in findings.pictures.items()]
    target = findings.pictures[findings.target]
    sides = target.short_sides
    if len(set(sides.tolist())) > 1:
        counts, edges = np.histogram(sides, SIZE_BINS)
        low, high = f"{edges[0]:.0f} pixels", f"{edges[-1]:.0f} pixels"
        drawn.append(("Shorter sides", charts.bars("shorter sides", counts.tolist(), low, high)))
    if len(findings.classes) > 1:
        names, sizes = list(findings.classes), list(findings.classes.values())
        drawn.append(("Images a class", charts.bars("images a class", sizes, names[0], names[-1], names)))
    shown = "".join(f"<div><h3>{escape(title)}</h3>{svg}</div>" for title, svg in drawn)
    return _section("Numbers", [f"<table>{''.join(lines)}</table>", f'<div class="charts">{shown}</div>'])


def _class(name: str, shown: Iterable[Shown], findings: Findings) -> str:
    count = many(findings.classes[name], "image")
    return f'<div class="class"><h3>{escape(name)} <span class="faint">{count}</span></h3>{_pictures(shown)}</div>'


def _pictures(shown: Iterable[Shown]) -> str:
    return f'<div class="pictures">{"".join(_image(one) for one in shown)}</div>'


def _image(shown: Shown) -> str:
    height, width = shown.pixels.shape[:2]
    name = escape(str(shown.place), quote=True)
    return f'<img src="{_data(shown.pixels)}" width="{width}" height="{height}" alt="{name}" title="{name}">'


def _data(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """A PNG as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
