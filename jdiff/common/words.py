"""Numbers, lists and names in words."""

from collections.abc import Sequence


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
    """At most four significant digits."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def listed(names: Sequence[str], most: int = 3, of: int = 0) -> str:
    """ "a, b, c and 4 more", of `of` names (0: those given)."""
    rest = max(of, len(names)) - most
    shown = ", ".join(names[:most])
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def one_line(text: object) -> str:
    """`text` with unprintable characters escaped: file names may hold line ends, escape codes or lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
