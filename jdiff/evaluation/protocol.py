"""A protocol: all that a number means nothing without."""

from dataclasses import dataclass

from jdiff.evaluation.numbers import Metric
from jdiff.networks.features.space import Input

MOST_IMAGES = 10_000  # where a protocol leaves the number open


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """features: the network, a name in from_config.evaluation. input: how it sees images; None: as the network has it.
    metrics: the numbers. images: how many are drawn; 0: as many as the reference has, at most MOST_IMAGES. test_too:
    whether the reference is the training and the test images, not the training images alone. seeds: how many times
    images are drawn. lowest: whether the lowest number of the seeds is reported, not their mean. strict: a number that
    cannot be computed is an error. about: all of this in words.
    """

    name: str
    features: str
    metrics: tuple[Metric, ...]
    about: str
    input: Input | None = None
    images: int = 0
    test_too: bool = False
    seeds: int = 1
    lowest: bool = False
    strict: bool = True

    @property
    def keep(self) -> int:
        """The most images whose features are kept."""
        return max(metric.rows for metric in self.metrics)

    @property
    def needs(self) -> frozenset[str]:
        """What its numbers need beside moments."""
        return frozenset().union(*(metric.needs for metric in self.metrics))

    @property
    def least(self) -> int:
        """The fewest images that it takes; where a number may be left out, 2."""
        return max(2, *(metric.least for metric in self.metrics)) if self.strict else 2

    def departures(self, images: int, seeds: int) -> str:
        """How an evaluation of so many images and seeds is not this protocol, in words; "" where it is."""
        facts = []
        if self.images and images != self.images:
            facts.append(f"{images:,} images, not {self.images:,}")
        if seeds != self.seeds:
            facts.append(f"{seeds or 'no'} seed{'s' if seeds > 1 else ''}, not {self.seeds}")
        return ", ".join(facts)

    @property
    def better(self) -> dict[str, str]:
        """Which way is better of each number, by its name."""
        return {name: way for metric in self.metrics for name, way in metric.better.items()}

    def count(self, reference: int) -> int:
        """How many images are drawn beside so many of the reference; 0: not known."""
        return self.images or min(reference or MOST_IMAGES, MOST_IMAGES)
