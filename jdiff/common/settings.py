"""The keys of a config as a table: default, meaning, allowed values, and what a change means to a run that goes on."""

import math
from dataclasses import dataclass, replace
from typing import Any

# What a change of a key does to a run that goes on. IDENTITY: it says what the weights are and mean, so it stays.
# SILENT: the weights come out the same. TOLD: they may not; the run goes on, and its history names the change.
IDENTITY, SILENT, TOLD = "identity", "silent", "told"


@dataclass(frozen=True)
class Setting:
    """A key of the config.

    default: its value; None where nothing is set, and then `kind` is the type of a value. meaning: what it does, in
    words. allowed: the interval of a number, or of each number of a tuple, such as "[0, 1)" or "[1, 2^16]"; "" for keys
    without numbers. NaN lies in no interval; infinity lies in those that include it, such as "(0, inf]". resume:
    IDENTITY, SILENT or TOLD. of: the types of a tuple's elements. or_two: two numbers may stand in place of one.
    """

    default: Any
    meaning: str
    allowed: str = ""
    resume: str = ""
    kind: type | None = None
    of: type | tuple[type, ...] = int
    or_two: bool = False

    def fault(self, value: Any) -> str:
        """What is wrong with `value`, in words; "" where nothing is."""
        if value is None:
            return "" if self.default is None else "needs a value"
        if self.or_two and (isinstance(value, bool) or not isinstance(value, (int, tuple)) or value == ()):
            return "must be a whole number, or two"
        if self.or_two and isinstance(value, tuple) and len(value) != 2:
            return "must be a whole number, or two"
        elements = value if isinstance(value, tuple) else (value,)
        kinds = self.of if isinstance(self.of, tuple) else (self.of,)
        if isinstance(value, tuple):
            for element in elements:
                if type(element) not in kinds and not (kinds == (float,) and type(element) is int):
                    return f"must hold {_plural(kinds)}; {element!r} is none"
        if self.allowed and not all(_lies_in(self.allowed, element) for element in elements):
            low, high = self.allowed[1:-1].split(", ")
            if not isinstance(value, tuple) and value < _number(high) and _number(high) >= 2**31:
                return f"must be {'at least' if self.allowed[0] == '[' else 'above'} {low}"
            return f"must {'hold numbers' if isinstance(value, tuple) else 'lie'} in {self.allowed}"
        return ""


def group(name: str, resume: str, /, **settings: Setting) -> dict[str, Setting]:
    """The settings of a group of keys by dotted name; `resume` is that of those that say nothing else."""
    prefix = f"{name}." if name else ""
    return {prefix + key: replace(setting, resume=setting.resume or resume) for key, setting in settings.items()}


def _plural(kinds: tuple[type, ...]) -> str:
    return " or ".join({int: "whole numbers", float: "numbers", str: "names", tuple: "tuples"}[kind] for kind in kinds)


def _lies_in(interval: str, value: float) -> bool:
    low, high = (_number(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def _number(text: str) -> float:
    base, _, power = text.strip().partition("^")
    return float(base) ** float(power) if power else float(base) if base != "-inf" else -math.inf
