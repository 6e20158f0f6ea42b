"""All that was found as plain values, to be written as JSON: what the reports have no room for, and programs read."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

from jdiff.doctor.findings import Findings, Place

PICTURES = {"grid", "of_class", "suspects"}  # of Findings, which are for the page


def plain(findings: Findings) -> dict[str, Any]:
    """Findings without pictures, in dicts, lists, strings, numbers and None. A place is {"split", "name", "index"}, its
    name below `folder`, index None for a file that was left out; a size is "height x width".
    """
    kept = [field.name for field in fields(findings) if field.name not in PICTURES]
    return {name: _plain(getattr(findings, name)) for name in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, Place):
        return {"split": value.split, "name": value.name, "index": value.index if value.index >= 0 else None}
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {_key(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no other numbers
    return value


def _key(key: Any) -> str:
    return " x ".join(map(str, key)) if isinstance(key, tuple) else str(key)
