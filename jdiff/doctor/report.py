"""Findings as text, as a page and as JSON: one view of them, rendered by templates/report.txt and report.html."""

import base64
import functools
import io
import math
import textwrap
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from jaxtyping import Real, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from jdiff.common.words import listed, many, number, share
from jdiff.doctor.findings import EVERYTHING, Finding, Findings, PictureNumbers, Place, Spread
from jdiff.doctor.thumbnails import PER_FINDING, PER_SUSPECT

PICTURES = {"grid", "of_class", "suspects"}  # of Findings, for the page alone
NAMED = 8  # suspects of a finding in the text
KEPT = "\0"  # stands for a space at which no line ends
WIDTH, HEIGHT = 360, 120  # of a chart
SIZE_BINS = 24
COLOURS = {1: ("#555",), 3: ("#c33", "#292", "#36c"), 4: ("#c33", "#292", "#36c", "#888")}  # of channels


def text(findings: Findings, width: int = 100) -> str:
    """Lines of at most `width` characters, but for names with spaces, which stay whole: a name in two parts cannot be
    searched for.
    """
    named = [*(one for each in findings.findings for one in each.suspects[:NAMED]), *findings.farthest]
    names = {place.name for one in named for place in one.places} | {findings.folder, *findings.classes}
    spaced = sorted((one for one in names if " " in one and not one.startswith("record ")), key=len, reverse=True)

    def item(words: str, start: str) -> str:
        for name in spaced:
            words = words.replace(name, name.replace(" ", KEPT))
        return textwrap.fill(
            words, width, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
            break_on_hyphens=False,
        ).replace(KEPT, " ")  # fmt: skip

    keys = [f"{one.key}={one.value}" for one in findings.advice]
    keys = [key.ljust(max(map(len, keys))) for key in keys]
    return _render("report.txt", findings, item=item, named=_named, keys=keys)


def page(findings: Findings, title: str = "What these data are like") -> str:
    """HTML5 in one string, to be written as UTF-8: no scripts, no links to anything outside, pictures within."""
    return _render("report.html", findings, title=title, png=_png, charts=_charts(findings)) + "\n"


def plain(findings: Findings) -> dict[str, Any]:
    """All but the pictures in dicts, lists, strings, numbers and None, to be written as JSON. A place is {"split",
    "name", "index"}, its name below `folder`, index None for a file that was left out; a size is "height x width".
    """
    kept = [field.name for field in fields(findings) if field.name not in PICTURES]
    return {name: _plain(getattr(findings, name)) for name in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Place):
        return {"split": value.split, "name": value.name, "index": value.index if value.index >= 0 else None}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        keys = (" x ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in value)
        return {key: _plain(one) for key, one in zip(keys, value.values(), strict=True)}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no other numbers


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("jdiff.doctor"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _render(template: str, findings: Findings, **more: Any) -> str:
    common = {"findings": findings, "numbers": _numbers(findings), "verdict": _verdict(findings)}
    words = {"many": many, "everything": EVERYTHING, "per_finding": PER_FINDING, "per_suspect": PER_SUSPECT}
    return _templates().get_template(template).render(**common, **words, **more).strip()


def _verdict(findings: Findings) -> str:
    refuse, look = len(findings.of("refuse")), len(findings.of("look"))
    if refuse:
        also = f", and {many(look, 'thing')} to look at" if look else ""
        return f"Mend {many(refuse, 'thing')} before training{also}."
    return f"{many(look, 'thing')} to look at." if look else "Nothing seems wrong."


def _named(finding: Finding) -> list[str]:
    """The first NAMED suspects, a line each, and how many others."""
    lines = []
    for one in finding.suspects[:NAMED]:
        others = f" and {many(len(one.places) - 3, 'other')}" if len(one.places) > 3 else ""
        lines.append(f"{one.name}{others}: {one.why}")
    rest = len(finding.suspects) - NAMED
    return [*lines, f"and {many(rest, 'other')}, in {EVERYTHING}"] if rest > 0 else lines


def _numbers(findings: Findings) -> list[tuple[str, str]]:
    """The numbers in words, a row (what, how) each."""
    found = [("records", ", ".join(f"{count:,} {split}" for split, count in findings.counts.items()))]
    found += [("files below", findings.folder)] if findings.folder else []
    for picture in findings.pictures.values():
        of = f"{picture.name} " if len(findings.pictures) > 1 else ""
        found += [(f"{of}{what}", how) for what, how in _picture(picture)]
    if findings.modes:
        found.append(("files", listed([f"{mode} {part}" for mode, part in _shares(findings.modes)], 4)))
    found += [("classes", _classes(findings.classes))] if findings.classes else []
    if told := findings.captions:
        tokens = f"; {_spread(told.tokens)} tokens" if told.tokens else ""
        lengths = f"{_spread(told.words)} words, {_spread(told.characters)} characters{tokens}"
        found.append(("captions", f"{told.different:,} different; {lengths}"))
    found += [(f"scalar {name}", _spread(spread)) for name, spread in findings.scalars.items()]
    if findings.farthest:
        names = listed([f"{one.name} ({one.why})" for one in findings.farthest])
        found.append(("farthest", f"from the rest are {names}"))
    return found


def _picture(picture: PictureNumbers) -> list[tuple[str, str]]:
    if not picture.sizes:
        return [("size", "none could be read")]
    heights, widths = zip(*picture.sizes, strict=True)
    size = f"all {heights[0]} x {widths[0]} (height x width)"
    if len(heights) > 1:
        size = f"{len(heights):,} sizes, {min(heights)} .. {max(heights)} high, {min(widths)} .. {max(widths)} wide; "
        size += f"width / height {number(picture.aspects.min())} .. {number(picture.aspects.max())}; most often "
        size += listed([f"{h} x {w} ({part})" for (h, w), part in _shares(picture.sizes)])
    form = f"{many(picture.channels, 'channel')}, {', '.join(picture.dtypes)}"
    form += "" if picture.kind == "image" else f", a {picture.kind}"
    ends = [number(end) for end in (picture.lowest, picture.highest, picture.low, picture.high)]
    values = f"{ends[0]} .. {ends[1]} of {ends[2]} .. {ends[3]}; {share(picture.at_low)} at the low end, "
    values += f"{share(picture.at_high)} at the high end"
    mean, std = (listed([f"{one:.2f}" for one in of], 4) for of in (picture.mean, picture.std))
    moments = f"{mean} +- {std} a channel, in [-1, 1]; sigma_data {picture.sigma_data:.3f}"
    return [("size", size), ("form", form), ("values", values), ("mean, std", moments)]


def _classes(classes: dict[str, int]) -> str:
    counts = sorted(classes.items(), key=lambda item: -item[1])
    most, least = counts[0][1], counts[-1][1]
    if most == least:
        return f"{len(counts)} of {many(most, 'image')} each"
    shown, which = (counts, "") if len(counts) <= 6 else (counts[:2] + counts[-2:], " (two largest, two smallest)")
    each = ", ".join(f"{name} {count:,}" for name, count in shown)
    return f"{len(counts)}, {most / max(least, 1):.1f} to 1: {each}{which}"


def _shares(counts: dict) -> list[tuple]:
    return [(key, share(count / sum(counts.values()))) for key, count in counts.items()]


def _spread(spread: Spread) -> str:
    low, median, high = (number(value) for value in (spread.lowest, spread.median, spread.highest))
    return low if low == high else f"{low} .. {high} (median {median})"


def _charts(findings: Findings) -> list[dict[str, Any]]:
    found = [
        # Roots, so that rare values are seen.
        _chart(f"Values of {picture.name}", np.sqrt(picture.histogram)[:4], number(picture.low), number(picture.high))
        for picture in findings.pictures.values()
    ]
    sides, classes = findings.pictures[findings.target].short_sides, findings.classes
    if len(set(sides.tolist())) > 1:
        counts, edges = np.histogram(sides, SIZE_BINS)
        found.append(_chart("Shorter sides", counts, f"{edges[0]:.0f} pixels", f"{edges[-1]:.0f} pixels"))
    if len(classes) > 1:
        found.append(_chart("Images a class", np.array(list(classes.values())), *list(classes)[:: len(classes) - 1]))
    return found


def _chart(title: str, heights: Real[np.ndarray, "*lines n"], first: str, last: str) -> dict[str, Any]:
    """A line by steps for every row of heights, as points in SVG, between the words for its ends."""
    steps = np.repeat(np.atleast_2d(heights), 2, axis=1)
    y = HEIGHT - steps / (steps.max() or 1) * (HEIGHT - 4)
    x = np.repeat(np.linspace(0, WIDTH, steps.shape[1] // 2 + 1), 2)[1:-1]
    points = [" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, row, strict=True)) for row in y]
    lines = list(zip(COLOURS.get(len(points), COLOURS[4]), points, strict=False))
    return {"title": title, "lines": lines, "ends": (first, last)}


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """A PNG as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
