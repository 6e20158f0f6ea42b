"""How the doctor words numbers and lists."""

from collections.abc import Iterable, Sequence
from itertools import islice

from jdiff.doctor.findings import Place, Suspect
from jdiff.doctor.reading import Scan

EVERYTHING = "findings.json"  # the file that names all suspects
MOST_SUSPECTS = 10_000  # of a finding that are kept, each with its name and reason


def many(count: int, what: str, plural: str = "") -> str:
    """ "1 image", "1,204 images"."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def share(part: float) -> str:
    """A percentage with as many digits as tell it from 0 and from 100."""
    for digits in (0, 1, 2):
        shown = f"{100 * part:.{digits}f}"
        if float(shown) not in (0, 100) or part in (0, 1):
            return f"{shown} %"
    return "under 0.01 %" if part < 0.5 else "over 99.99 %"


def number(value: float) -> str:
    """At most four digits that matter."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """ "a, b, c and 4 more"."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def suspects(scan: Scan, rows: Iterable[int], why: dict[int, str] | str) -> tuple[Suspect, ...]:
    """The first rows, one suspect each."""
    return tuple(
        Suspect((scan.place(row),), why if isinstance(why, str) else why[row]) for row in islice(rows, MOST_SUSPECTS)
    )


def places(found: Sequence[Suspect]) -> str:
    """The first places of suspects, for a sentence."""
    all_places: list[Place] = [place for suspect in found for place in suspect.places]
    return ", ".join(str(place) for place in all_places[:3])
