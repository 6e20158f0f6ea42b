"""What scores images: prepared once by a config, for any number of sets of them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.processes import first_process_first, is_first_process
from jdiff.common.progress import Progress, progress_bar
from jdiff.common.shards import Shards
from jdiff.conditions.label import AS_IN_DATA
from jdiff.config import one_of
from jdiff.data.verdicts import cache_folder
from jdiff.evaluation import numbers, statistics
from jdiff.evaluation.copying import Gap, Memorised
from jdiff.evaluation.gather import BATCH, Gathered, Images, Pictures, Read, counted, gather, reader
from jdiff.evaluation.numbers import Number, Sets
from jdiff.evaluation.protocol import Protocol as Scores
from jdiff.evaluation.statistics import Statistics
from jdiff.from_config import evaluation as from_config
from jdiff.from_config.evaluation import Features, OwnData
from jdiff.networks.features.space import FeatureSpace
from jdiff.scoring.data import Data, open_data, resized

UNIFORM = "uniform"  # in place of the data's mix of classes
REFERENCE_ROWS = 50_000  # most reference images whose features are kept


@runtime_checkable
class Scored(Protocol):
    """Images to be scored, as they are on a screen, each with the class that was asked for, if any."""

    def __len__(self) -> int: ...
    def batches(self, first: int = 0) -> Iterator[Images]: ...
    def of(self, numbers: Sequence[int] | np.ndarray) -> Images: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
    """What scores images. place: where the reference comes from, in words. data: the config's; None where they are not
    needed and not there.
    """

    config: ConfigDict
    protocol: Scores
    features: Features
    space: FeatureSpace
    read: Read
    reference: Statistics
    place: str
    data: Data | None
    progress: Callable[[str], Progress]

    @property
    def labelled(self) -> bool:
        """Whether the features' network knows the data's classes."""
        return self.features.of_data and bool(self.config.data.class_names)

    @property
    def count(self) -> int:
        """How many images are scored by default."""
        return self.config.eval.num_images or self.protocol.count(self.reference.count)

    @cached_property
    def splits(self) -> tuple[Float[np.ndarray, "m d"] | None, Float[np.ndarray, "l d"] | None]:
        """Features of training and of held-out images, for copies; None where there are none."""
        data, reference, held_out = self.data, self.reference, self._held_out
        if data is None or held_out is None or not self._copies:
            return None, None
        if reference.facts.get("split") == "train" and reference.facts["fingerprint"] == data.fingerprint:
            return reference.features, held_out.features
        training = _measured([data.train], self.read, self.space, self.progress("features of training images"))
        return training.features, held_out.features

    @property
    def accuracy(self) -> float | None:
        """The share of held-out images that the features' network reads right; None where it knows no classes."""
        if not self.labelled or self._held_out is None:
            return None
        logits, labels = self._held_out.rows("logits"), self._held_out.rows("labels")
        return None if logits is None or labels is None else float((logits.argmax(axis=1) == labels).mean())

    @cached_property
    def _held_out(self) -> Gathered | None:
        if self.data is None or self.data.held_out is None:
            return None
        return _read([self.data.held_out], self.read, self.space, self.progress("features of held-out images"))

    @property
    def _copies(self) -> bool:
        return any(isinstance(metric, Memorised | Gap) for metric in self.protocol.metrics)

    def gather(
        self,
        images: Scored,
        shards: Shards | None = None,
        stop: Callable[[int], bool] = lambda done: False,
        bar: str = "",
    ) -> Gathered:
        """The features of images; what is in shards already is not computed again. bar: its name, if there is one."""

        def batches(first: int) -> Iterator[Images]:
            with tqdm(total=len(images), initial=first, desc=bar, unit="image", disable=not bar, leave=False) as shown:
                yield from counted(images.batches(first), shown.update)

        return gather(batches, self.read, self.space.dimension, self.protocol.keep, shards, stop)

    def sets(self, found: Gathered) -> Sets:
        """What numbers are computed of."""
        training, held_out = self.splits
        return Sets(
            generated=found,
            reference=self.reference,
            training=training,
            held_out=held_out,
            labelled=self.labelled,
            class_names=tuple(self.config.data.class_names),
        )

    def numbers(self, found: Gathered) -> tuple[list[Number], list[str]]:
        """(the protocol's numbers, what is left out and why)."""
        return numbers.all_of(self.protocol.metrics, self.sets(found), strict=self.protocol.strict)

    def identity(self) -> dict[str, Any]:
        """All of this that decides numbers, for an index."""
        digest = hashlib.sha256(self.reference.mean.tobytes() + self.reference.covariance.tobytes()).hexdigest()[:16]
        return {
            "protocol": self.protocol.name,
            "features": statistics.plain(self.space),
            "reference": digest,
            "data": "" if self.data is None else self.data.fingerprint,
        }


def judge(config: ConfigDict, mesh: Mesh, *, progress: bool = True) -> Judge:
    """What scores images by the group `eval` of a config. Raises UserError where data, weights or the reference are
    missing or do not fit together.
    """
    bar: Callable[[str], Progress] = lambda what: progress_bar(what, show=progress)  # noqa: E731
    protocol = from_config.protocol(config)
    one_of("eval.labels", config.eval.labels, ["", AS_IN_DATA, UNIFORM])
    features, path = from_config.features(protocol.features), config.eval.reference
    given = statistics.read(expanded(path)) if path else None
    data: Data | None = None
    if given is None or not config.data.shape:
        config, data = open_data(config)
    else:
        with suppress(UserError):  # for copies and the classifier alone
            config, data = open_data(config)
    opened = data

    def training() -> Pictures:
        return (opened or open_data(config)[1]).train

    own = OwnData(
        shape=tuple(config.data.shape),
        classes=len(config.data.class_names) if config.data.labels_per_image == 1 else 0,
        fingerprint=data.fingerprint if data else config.data.fingerprint,
        pictures=training,
        progress=bar("training a classifier for features"),
    )
    extractor = features.load(config.eval.weights, protocol.input, own)
    space = extractor.spaces[features.layer]
    read = reader(extractor, features.layer, features.logits, mesh)
    if given is not None:
        statistics.check_same(given, space, path)
        _check_sides(given, config, path, protocol)
        reference, place = given, path
    else:
        assert data is not None
        reference = measure(config, data, protocol, space, read, bar)
        place = f"data.name={config.data.name}, {reference.facts['split']}"
    return Judge(
        config=config,
        protocol=protocol,
        features=features,
        space=space,
        read=read,
        reference=reference,
        place=place,
        data=data,
        progress=bar,
    )


def key_of(config: ConfigDict) -> str:
    """What a judge is made of, of a config, as text: equal where the same one will do."""
    data, wanted = config.data.to_dict(), config.eval.to_dict()
    return repr((data, {name: wanted[name] for name in ("protocol", "features", "weights", "reference")}))


def measure(
    config: ConfigDict,
    data: Data,
    protocol: Scores,
    space: FeatureSpace,
    read: Read,
    progress: Callable[[str], Progress],
) -> Statistics:
    """The statistics of the data, kept for the next time."""
    parts = [data.train, *([data.held_out] if protocol.test_too and data.held_out else [])]
    facts = {
        "data": config.data.name,
        "split": "train and test" if len(parts) > 1 else "train",
        "images": sum(map(len, parts)),
        "sides": list(config.data.shape[:2]),
        "channels": config.data.shape[2],
        "resize": config.data.resize,
        "fingerprint": data.fingerprint,
    }
    wanted = {"space": statistics.plain(space), "facts": facts}
    name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    kept = cache_folder() / "statistics" / f"{name}.npz"
    with first_process_first():
        if kept.is_file():
            with suppress(UserError):  # damaged: made anew
                found = statistics.read(kept)
                if {"space": found.space, "facts": found.facts} == wanted:
                    return found
        found = _measured(parts, read, space, progress("features of the data"), facts)
        if is_first_process():
            with suppress(UserError):  # measured again next time
                statistics.write(kept, found)
    return found


def _measured(
    parts: Sequence[Pictures],
    read: Read,
    space: FeatureSpace,
    progress: Progress,
    facts: dict[str, Any] | None = None,
) -> Statistics:
    found = _read(parts, read, space, progress)
    if found.count < 2:
        raise UserError(f"a reference of {found.count} images has no covariance: at least 2 are needed")
    return Statistics(
        mean=found.moments.mean,
        covariance=found.moments.covariance,
        space=statistics.plain(space),
        count=found.count,
        features=found.features,
        labels=found.rows("labels"),
        facts=facts or {},
    )


def _read(parts: Sequence[Pictures], read: Read, space: FeatureSpace, progress: Progress) -> Gathered:
    batches = (batch for pictures in parts for batch in pictures.batches())
    total = sum(-(-len(pictures) // BATCH) for pictures in parts)
    return gather(lambda first: iter(progress(batches, total)), read, space.dimension, REFERENCE_ROWS)


def _check_sides(reference: Statistics, config: ConfigDict, path: str, protocol: Scores) -> None:
    """Raises UserError where the reference is of images of other sides or channels."""
    if not reference.facts:
        return
    theirs = (*reference.facts["sides"], reference.facts["channels"])
    ours = tuple(config.data.shape)
    if theirs != ours:
        raise UserError(
            f"{path} is of images of {'x'.join(map(str, theirs))}, and these are {'x'.join(map(str, ours))}: "
            f"{resized(protocol)}, and what it makes of other sides differs from what it makes of these. Make "
            "statistics of images of these sides with --mode=stats"
        )
