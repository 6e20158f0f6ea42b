"""The report as text, most serious first."""

import re
import textwrap
from collections.abc import Iterable

from jdiff.doctor.findings import Finding, Findings, Suspect
from jdiff.doctor.tables import rows, verdict
from jdiff.doctor.words import EVERYTHING, many

HEADINGS = {"refuse": "MEND BEFORE TRAINING", "look": "LOOK AT"}
LABEL = 13  # characters of the first column
NAMED = 8  # suspects of a finding
PLACES = 3  # of a suspect
KEPT = "\0"  # stands for a space at which no line ends


def text(findings: Findings, width: int = 100) -> str:
    """Lines of at most `width` characters, without one at the end. Longer is what is longer without a space, and names
    that hold some: a name in two parts cannot be searched for.
    """
    names = _with_spaces(findings)

    def item(start: str, words: str) -> list[str]:
        return _item(start, words, names, width)

    lines = [verdict(findings)]
    for severity, heading in HEADINGS.items():
        found = [finding for finding in findings.findings if finding.severity == severity]
        if found:
            lines += ["", heading]
        for finding in found:
            lines += item("- ", finding.says)
            for more in _more(finding):
                lines += item("  ", more)
            lines += item("  -> ", finding.do) if finding.do else []
    fine = [finding.says for finding in findings.findings if finding.severity == "fine"]
    if fine:
        lines += ["", "FINE", *item("  ", "; ".join(fine))]
    lines += ["", "NUMBERS"]
    for what, how in rows(findings):
        lines += item(f"  {what:{LABEL}} ", how)
    if findings.advice:
        lines += ["", "ADVICE (* where the config says otherwise)"]
        widest = max(len(f"{advice.key}={advice.value}") for advice in findings.advice)
        for advice in findings.advice:
            key = f"{advice.key}={advice.value}"
            mark = "*" if advice.change else " "
            lines += item(f"{mark} {key:{widest}}  ", f"{advice.sure}: {advice.why}")
    return "\n".join(lines)


def _more(finding: Finding) -> list[str]:
    """The suspects that the finding does not name itself, so that NAMED are, a line each; and how many others."""
    first = finding.suspects[:NAMED]
    lines = [f"{_names(one)}: {one.why}" for one in first if not _is_named(one, finding.says)]
    rest = len(finding.suspects) - len(first)
    return [*lines, f"and {many(rest, 'other')}, in {EVERYTHING}"] if rest else lines


def _names(suspect: Suspect) -> str:
    shown = " = ".join(str(place) for place in suspect.places[:PLACES])
    rest = len(suspect.places) - PLACES
    return f"{shown} and {many(rest, 'other')}" if rest > 0 else shown


def _is_named(suspect: Suspect, says: str) -> bool:
    """ "record 1" is not named by "record 12"."""
    names = [re.escape(str(place)) for place in suspect.places[:PLACES]]
    return all(re.search(rf"(?<![^\s(]){name}(?![^\s,:;)])", says) for name in names)


def _with_spaces(findings: Findings) -> list[str]:
    """Names that hold spaces, longest first: one may hold another."""
    found = {place.name for one in _suspects(findings) for place in one.places}
    found |= {findings.folder, *findings.classes}
    return sorted((name for name in found if " " in name and not name.startswith("record ")), key=len, reverse=True)


def _suspects(findings: Findings) -> Iterable[Suspect]:
    """All that the text may name."""
    for finding in findings.findings:
        yield from finding.suspects[:NAMED]
    yield from findings.farthest


def _item(start: str, words: str, names: Iterable[str], width: int) -> list[str]:
    for name in names:
        words = words.replace(name, name.replace(" ", KEPT))
    lines = textwrap.wrap(
        words, width, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace(KEPT, " ") for line in lines]
