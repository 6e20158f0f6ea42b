"""What the doctor found, as plain values: reports and programs read them alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import UInt8

TRAIN, HELD_OUT = "train", "held-out"  # names of the splits

Severity = Literal["refuse", "look", "fine"]
SEVERITIES: tuple[Severity, ...] = ("refuse", "look", "fine")


@dataclass(frozen=True)
class Place:
    """Record `index` of a split; -1: a file that is no record, being left out. name: its file, or "record 17", in one
    line as a message may hold it.
    """

    split: str
    index: int
    name: str

    def __str__(self) -> str:
        return self.name if self.split == TRAIN else f"{self.name} ({self.split})"


@dataclass(frozen=True)
class Suspect:
    """A record, or several that belong together such as copies, and why a person should look at it."""

    places: tuple[Place, ...]
    why: str


@dataclass(frozen=True)
class Finding:
    """What one check found.

    code: the check's name, for compiled. severity: "refuse" (training would go wrong or stop), "look" (a person should
    look at it), "fine". says: one sentence. do: what to do about it; "" where it is fine. count: how many records it is
    about, which are `suspects`, worst first (of very many the first ones).
    """

    code: str
    severity: Severity
    says: str
    do: str = ""
    count: int = 0
    suspects: tuple[Suspect, ...] = ()


@dataclass(frozen=True)
class Advice:
    """A key to set. value: as one types it. why: the reason in words. sure: how far to trust it. change: whether it
    differs from the config that the doctor was given.
    """

    key: str
    value: str
    why: str
    sure: Literal["sure", "likely", "a guess"]
    change: bool = True


@dataclass(frozen=True)
class Spread:
    """How numbers lie: the lowest, the 1st, 50th and 99th percentile, and the highest."""

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
    """One picture of the training records, over all of them.

    sizes: (h, w) -> how many. channels: c -> how many. dtypes: name -> how many. low, high: the declared range, which
    becomes [-1, 1]. lowest, highest: of any value. at_low, at_high: the share of values at or beyond either end.
    mean, std: of each channel in [-1, 1]; sigma_data: the standard deviation over all pixels and channels in [-1, 1].
    In these three every image counts alike, whatever its size, as in training. trained_sigma: sigma_data at the size
    that the config brings images to; None where it says none. histogram: the share of values in each of equal parts of
    the declared range, a row a channel.
    """

    name: str
    kind: str
    sizes: dict[tuple[int, int], int]
    channels: dict[int, int]
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
    """Captions of the training records. characters, words: how many a caption has; tokens: of the byte-pair tokenizer
    that would be fitted to them, with its two marks, and None without the library tokenizers. different: how many there
    are, each counted once.
    """

    characters: Spread
    words: Spread
    tokens: Spread | None
    empty: int
    different: int
    longest: str


@dataclass(frozen=True)
class Mirror:
    """Whether mirrored images look like the data.

    farther: the share of images whose mirror image is farther from the other images (of its class) than the image
    itself is; 1/2 where mirrored images look like the data. ratio: the median of how many times as far, at most 20.
    images: how many were tried. classes: `farther` of every class.
    """

    farther: float
    ratio: float
    images: int
    classes: dict[str, float]


@dataclass(frozen=True)
class Shown:
    """A picture for the report, at most a hundred or so pixels high and wide."""

    place: Place
    pixels: UInt8[np.ndarray, "h w c"]
    says: str = ""


@dataclass(frozen=True)
class Findings:
    """All that the doctor has to say.

    counts: split -> how many records. pictures: name -> numbers, of the training records. target: the picture that is
    modelled. classes: name -> how many training images; {} where there are none. modes: format and mode of the files,
    where their names are known -> how many. folder: the one that names are below. scalars: name -> how it lies. notes:
    what the sources say themselves, and no finding does. findings: most serious first. farthest: the images that are
    least like the others, farthest first, be they odd or not. grid: some of the images; of_class: some of every class;
    suspects: place -> its picture.

    Names of files, classes and the like are in one line, as messages may hold them.
    """

    counts: dict[str, int]
    pictures: dict[str, PictureNumbers]
    target: str
    classes: dict[str, int]
    modes: dict[str, int]
    folder: str
    scalars: dict[str, Spread]
    captions: Captions | None
    mirror: Mirror | None
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    farthest: tuple[Suspect, ...]
    advice: tuple[Advice, ...]
    grid: tuple[Shown, ...] = ()
    of_class: dict[str, tuple[Shown, ...]] = field(default_factory=dict)
    suspects: dict[Place, Shown] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not fine."""
        return tuple(finding for finding in self.findings if finding.severity != "fine")

    def finding(self, code: str) -> Finding | None:
        return next((finding for finding in self.findings if finding.code == code), None)
