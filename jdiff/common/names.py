"""The right name for a wrong one."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean ...?" with the names nearest in their last part, then (where groups are given) as a whole."""

    def likeness(other: str) -> float:
        leaf = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], other.rsplit(".", 1)[-1]).ratio()
        whole = difflib.SequenceMatcher(None, name, other).ratio() if "." in name else leaf
        return leaf + whole

    scores = {other: likeness(other) for other in known}
    best = max(scores.values(), default=0.0)
    near = [repr(other) for other, score in scores.items() if score == best and best > 1.2]
    return f"; did you mean {' or '.join(near[:3])}?" if near else ""
