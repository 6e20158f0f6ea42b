"""How configs of earlier versions read: the one place that knows what keys and values were called before.

config.json holds the version of its keys; one without is of version 1.
"""

from collections.abc import Iterator
from typing import Any

VERSION = 3

# In version 2 the field's terms took the place of our own. In version 3 low-rank parts were no longer the only ones to
# stand beside frozen weights.
RENAMED = {
    "lora.base": "train.initial_fingerprint",
    "condition.image.halvings": "condition.image.downsamples",
    "network.waves": "network.noise_channels",
    "network.wave_offset": "network.freq_shift",
    "sample.moves": "sample.corrector_steps",
}
RENAMED_VALUES = {("condition.image.into", "planes"): "concat", ("condition.image.into", "tokens"): "cross_attention"}


def migrated(saved: dict[str, Any]) -> dict[str, Any]:
    """The keys and values of a config.json of any version under today's names."""
    version = saved.get("version", 1)
    flat = {name: value for name, value in _flat(saved) if name != "version"}
    if version < VERSION:
        flat = {RENAMED.get(name, name): value for name, value in flat.items()}
        flat = {name: RENAMED_VALUES.get((name, str(value)), value) for name, value in flat.items()}
    if "condition.scalars.mean" not in flat:  # before they were standardised
        count = len(flat.get("condition.scalars.names", ()))
        flat |= {"condition.scalars.mean": [0.0] * count, "condition.scalars.std": [1.0] * count}
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[leaf] = value
    return nested


def now_called(name: str, known: str = "") -> str:
    """A hint that gives the new name of `name`, a key or its last part; `known` where it was not renamed."""
    new = next((new for old, new in RENAMED.items() if name in (old, old.rsplit(".")[-1])), None)
    return f"; it is called {new} now" if new else known


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
