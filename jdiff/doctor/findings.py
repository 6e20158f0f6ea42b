"""What the doctor found, as plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

TRAIN, HELD_OUT = "train", "held-out"  # names of the splits
EVERYTHING = "findings.json"  # the file that names every suspect
MOST_SUSPECTS = 10_000  # of a finding that are kept, each with its name and reason

Severity = Literal["refuse", "look", "fine"]
SEVERITIES = get_args(Severity)  # worst first
Sure = Literal["sure", "likely", "a guess"]


@dataclass(frozen=True)
class Place:
    """Record `index` of a split (-1: a file that a source left out), by its file or as "record 17", in one line."""

    split: str
    index: int
    name: str

    def __str__(self) -> str:
        return self.name if self.split == TRAIN else f"{self.name} ({self.split})"


Thumbnails = dict[Place, UInt8[np.ndarray, "h w 3"]]


@dataclass(frozen=True)
class Suspect:
    """A record, or several that belong together such as copies, and why a person should look at it."""

    places: tuple[Place, ...]
    why: str

    @property
    def name(self) -> str:
        """The first three places: "a.png = b.png"."""
        return " = ".join(str(place) for place in self.places[:3])


@dataclass(frozen=True)
class Finding:
    """The result of one check. code: its name, for programs. severity: "refuse" (training would stop or go wrong),
    "look" (a person should look at it), "fine". says: one sentence. do: the remedy. count: how many records it is
    about; suspects: these records, worst first, MOST_SUSPECTS at most.
    """

    code: str
    severity: Severity
    says: str
    do: str = ""
    count: int = 0
    suspects: tuple[Suspect, ...] = ()


def judge(
    code: str, suspects: Sequence[Suspect], fine: str, severity: Severity, says: str, do: str, count: int = 0
) -> Finding:
    """`fine` where there are no suspects. count: 0 for that of the suspects."""
    if not suspects:
        return Finding(code, "fine", fine)
    return Finding(code, severity, says, do, count or len(suspects), tuple(suspects[:MOST_SUSPECTS]))


@dataclass(frozen=True)
class Advice:
    """A key to set, its value as one types it, the reason, and how far to trust it. change: the config differs."""

    key: str
    value: str
    why: str
    sure: Sure
    change: bool = True


@dataclass(frozen=True)
class Spread:
    """Percentiles 0, 1, 50, 99 and 100 of some numbers."""

    lowest: float
    low: float
    median: float
    high: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        return cls(*(float(value) for value in np.percentile(values, (0, 1, 50, 99, 100))))


@dataclass(frozen=True)
class PictureNumbers:
    """One picture of the training records. sizes, dtypes: (h, w) and name -> how many records.

    low, high: the declared range, which becomes [-1, 1]; lowest, highest: of any value; at_low, at_high: the share of
    values at or beyond either end. mean, std [c]: in [-1, 1]; sigma_data: the standard deviation over all pixels and
    channels; in these every image counts alike, as in training. histogram [c, bins]: shares of the declared range.
    trained_sigma: sigma_data at data.image_size; None where the config has none.
    """

    name: str
    kind: str
    sizes: dict[tuple[int, int], int]
    channels: int
    dtypes: dict[str, int]
    low: float
    high: float
    lowest: float
    highest: float
    at_low: float
    at_high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_data: float
    histogram: tuple[tuple[float, ...], ...]
    trained_sigma: float | None = None

    @property
    def short_sides(self) -> np.ndarray:
        """The shorter side of every image [n], in pixels."""
        return np.repeat([min(size) for size in self.sizes], list(self.sizes.values()))

    @property
    def aspects(self) -> np.ndarray:
        """Width over height of every image [n]."""
        return np.repeat([w / h for h, w in self.sizes], list(self.sizes.values()))


@dataclass(frozen=True)
class Captions:
    """Lengths of the training records' captions. tokens: of a byte-pair tokenizer fitted to them, its two marks
    included; None without the library tokenizers. different: the number of distinct captions.
    """

    characters: Spread
    words: Spread
    tokens: Spread | None
    different: int


@dataclass(frozen=True)
class Findings:
    """All that the doctor has to say of the training records (and, in `findings`, of the held-out ones).

    counts: split -> records. target: the modelled picture. classes: name -> images. modes: "JPEG RGB" -> files.
    folder: the one that names are below. notes: those of the sources that no finding repeats. findings: worst first.
    farthest: the images least like the others. grid, of_class, suspects: pictures for the page.
    """

    counts: dict[str, int]
    pictures: dict[str, PictureNumbers]
    target: str
    classes: dict[str, int]
    modes: dict[str, int]
    folder: str
    scalars: dict[str, Spread]
    captions: Captions | None
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    farthest: tuple[Suspect, ...]
    advice: tuple[Advice, ...]
    grid: Thumbnails
    of_class: dict[str, Thumbnails]
    suspects: Thumbnails

    def of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    def finding(self, code: str) -> Finding | None:
        return next((finding for finding in self.findings if finding.code == code), None)
