"""The outcome of an evaluation."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from jdiff.evaluation.numbers import Number


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """numbers, and what is left out and why. by_class: each class's Frechet distance. facts: all that the numbers mean
    nothing without, of JSON's types.
    """

    numbers: tuple[Number, ...]
    left_out: tuple[str, ...] = ()
    by_class: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        """The value of a number by its name, such as "fd_classifier"."""
        known = {one.name: one.value for one in self.numbers}
        if name not in known:
            raise KeyError(f"{name!r}; there are {', '.join(known)}")
        return known[name]

    def plain(self) -> dict[str, Any]:
        """All of it, of JSON's types."""
        return {
            "numbers": {one.name: {**asdict(one), "protocol": self.facts["protocol"]["name"]} for one in self.numbers},
            "left_out": list(self.left_out),
            "by_class": dict(self.by_class),
            **self.facts,
        }


def of_plain(held: Mapping[str, Any]) -> Result:
    """The result of what `plain` gave."""
    rest = {name: value for name, value in held.items() if name not in ("numbers", "left_out", "by_class")}
    numbers = tuple(
        Number(**{name: value for name, value in one.items() if name != "protocol"}) for one in held["numbers"].values()
    )
    return Result(numbers=numbers, left_out=tuple(held["left_out"]), by_class=held["by_class"], facts=rest)
