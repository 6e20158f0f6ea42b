"""What scores images: prepared once by a config, for any number of sets of them."""

import hashlib
import json
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, runtime_checkable

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.processes import is_first_process
from jdiff.common.progress import Progress, progress_bar
from jdiff.common.shards import Shards
from jdiff.conditions.label import AS_IN_DATA
from jdiff.config import one_of
from jdiff.data.verdicts import cache_folder
from jdiff.evaluation import numbers, statistics
from jdiff.evaluation.distances import WorstClass
from jdiff.evaluation.gather import BATCH, Gathered, Images, Pictures, Read, counted, gather, reader
from jdiff.evaluation.numbers import CLASSES, FEATURES, SPLIT, Number, Sets
from jdiff.evaluation.protocol import Protocol
from jdiff.evaluation.statistics import Statistics
from jdiff.from_config import evaluation as from_config
from jdiff.from_config.evaluation import Features, OwnData
from jdiff.networks.features.space import FeatureSpace
from jdiff.request import check_learned
from jdiff.scoring.data import REFERENCE_ROWS, Data, made, open_data, resized
from jdiff.training import sharding

UNIFORM = "uniform"  # in place of the data's mix of classes
VERSION = 1  # of what numbers are computed by: another one computes them anew


@runtime_checkable
class Scored(typing.Protocol):
    """Images to be scored, as they are on a screen, each with the class that was asked for, if any."""

    def __len__(self) -> int: ...
    def batches(self, first: int = 0) -> Iterator[Images]: ...
    def of(self, numbers: Sequence[int] | np.ndarray) -> Images: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
    """What scores images. place: where the reference comes from, in words. data: the config's; None where they are not
    there, and then `missing` says why. conditions: what the config's model is given.
    """

    config: ConfigDict
    protocol: Protocol
    features: Features
    space: FeatureSpace
    read: Read
    reference: Statistics
    place: str
    data: Data | None
    missing: str
    conditions: tuple[str, ...]
    progress: Callable[[str], Progress]

    @property
    def labelled(self) -> bool:
        """Whether the features' network knows the data's classes."""
        return self.features.knows_classes and _classes(self.config) > 1

    @property
    def count(self) -> int:
        """How many images are scored by default."""
        return self.config.eval.num_images or self.protocol.count(self.reference.count)

    @property
    def has(self) -> frozenset[str]:
        """What there is of what numbers may need."""
        known = {FEATURES: self.reference.features is not None, CLASSES: self.labelled, SPLIT: not self._no_split}
        return frozenset(name for name, there in known.items() if there)

    @property
    def possible(self) -> dict[str, str]:
        """Which way is better of each number that can be computed, by its name."""
        there = [metric for metric in self.protocol.metrics if metric.needs <= self.has]
        return {name: way for metric in there for name, way in metric.better.items()}

    @property
    def accuracy(self) -> float | None:
        """The share of held-out images that the features' network reads right; None where it knows no classes."""
        if not self.labelled or self._held_out is None:
            return None
        logits, labels = self._held_out.rows("logits"), self._held_out.rows("labels")
        return None if logits is None or labels is None else float((logits.argmax(axis=1) == labels).mean())

    @cached_property
    def splits(self) -> tuple[Float[np.ndarray, "m d"] | None, Float[np.ndarray, "l d"] | None]:
        """Features of training and of held-out images, for copies; None where there are none, or none are needed."""
        if self.data is None or self._held_out is None or SPLIT not in self.protocol.needs:
            return None, None
        reference = self.reference
        if reference.features is not None and reference.facts.get("pictures") == self.data.pictures(test_too=False):
            return reference.features, self._held_out.features
        training = _read([self.data.train], self.read, self.space, self.progress("features of training images"))
        return training.features, self._held_out.features

    @cached_property
    def _held_out(self) -> Gathered | None:
        if self.data is None or self.data.held_out is None:
            return None
        return _read([self.data.held_out], self.read, self.space, self.progress("features of held-out images"))

    @property
    def _no_split(self) -> str:
        if self.data is None:
            return f"copies are told by the data's images, which are not there: {self.missing}"
        return "" if self.data.held_out else "no images are held out (data.holdout), to tell copies by"

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
            trained_on=len(self.data.train) if self.data else 0,
            missing=self._no_split,
            labelled=self.labelled,
            class_names=tuple(self.config.data.class_names),
        )

    def check(self, count: int, *, drawn: bool = True) -> None:
        """Raises UserError where so many images are too few, or what the protocol needs is not there, before any is
        drawn.
        """
        least, name = self.protocol.least, self.protocol.name
        for what, there in (("images", count), ("images of the reference", self.reference.count or least)):
            if there < least:
                raise UserError(f"{there:,} {what} are too few: the protocol {name} needs at least {least:,}")
        if self.protocol.strict and SPLIT in self.protocol.needs and self._no_split:
            raise UserError(f"the protocol {name} cannot be: {self._no_split}")
        if drawn and self.config.eval.likelihood_images:
            self._check_likelihood()

    def _check_likelihood(self) -> None:
        key, data = f"eval.likelihood_images={self.config.eval.likelihood_images}", self.config.data
        if self._no_split:
            raise UserError(f"{key}: {self._no_split}")
        if not np.issubdtype(data.dtype, np.integer):
            raise UserError(f"{key}: bits per dimension are of whole numbers, and these data are {data.dtype}")
        if data.labels_per_image > 1 or set(self.conditions) - {"label", "aspect"}:
            raise UserError(f"{key}: goes with models of one label an image or of none")
        check_learned(self.config, key)

    def numbers(self, found: Gathered) -> tuple[list[Number], list[str], dict[str, float]]:
        """(the protocol's numbers, what is left out and why, each class's distance where classes are compared)."""
        sets, protocol = self.sets(found), self.protocol
        given, left_out = numbers.all_of(protocol.metrics, sets, strict=protocol.strict)
        by_class: dict[int, float] = {}
        if any(isinstance(metric, WorstClass) for metric in protocol.metrics):
            with suppress(UserError):  # told among what is left out
                by_class, _ = sets.by_class
        names = self.config.data.class_names
        return given, left_out, {names[label] if names else str(label): value for label, value in by_class.items()}

    def identity(self) -> dict[str, Any]:
        """All of this that decides numbers, for an index."""
        return {
            "protocol": repr(self.protocol),
            "features": statistics.plain(self.space),
            "reference": [self.reference.digest, self.reference.count],
            "data": "" if self.data is None else self.data.pictures(test_too=True),
            "version": VERSION,
        }


def judge(
    config: ConfigDict,
    mesh: Mesh,
    *,
    progress: bool = True,
    keep: bool = True,
    shape: tuple[int, ...] = (),
) -> Judge:
    """What scores images by the group `eval` of a config. Raises UserError where data, weights or the reference are
    missing or do not fit together.

    keep: the data's images are kept in memory, as far as machine.cache goes. shape: of the images to be scored, for
    where nothing else tells.
    """
    bar: Callable[[str], Progress] = lambda what: progress_bar(what, show=progress)  # noqa: E731
    protocol = from_config.protocol(config)
    one_of("eval.labels", config.eval.labels, ["", AS_IN_DATA, UNIFORM])
    features, path, conditions = from_config.features(protocol.features), config.eval.reference, config.model.conditions
    given = statistics.read(expanded(path)) if path else None
    data, missing = None, ""
    try:
        config, data = open_data(config, keep=keep)
    except UserError as error:
        if given is None:
            raise
        missing = str(error)
        config = _of_shape(config, given, shape)
    channels = config.data.shape[2]
    if features.pretrained and channels not in (1, 3):
        raise UserError(f"{protocol.features} reads images of 1 or 3 channels, and these have {channels}")

    space, read = reading(config, mesh, protocol, data, missing, bar)
    if given is not None:
        statistics.check_same(given, space, path)
        statistics.check_split(given, _split(protocol), path, protocol.name)
        _check_sides(given, config, path, protocol)
        reference, place = given, path
    else:
        assert data is not None
        reference = measure(config, data, protocol, space, read, bar)
        place = f"data.name={config.data.name}, {_split(protocol)}"
    return Judge(
        config=config,
        conditions=tuple(conditions),
        protocol=protocol,
        features=features,
        space=space,
        read=read,
        reference=reference,
        place=place,
        data=data,
        missing=missing,
        progress=bar,
    )


def reading(
    config: ConfigDict,
    mesh: Mesh,
    protocol: Protocol,
    data: Data | None,
    missing: str,
    bar: Callable[[str], Progress],
) -> tuple[FeatureSpace, Read]:
    """(the space of a protocol's features, what reads them of images). data: the config's, None where they are not
    there, `missing` saying why. Raises UserError where weights are missing.
    """

    def training() -> Pictures:
        if data is None:
            raise UserError(missing)
        return data.train

    own = OwnData(
        shape=tuple(config.data.shape),
        classes=_classes(config) if _classes(config) > 1 else 0,
        fingerprint=data.pictures(test_too=False) if data else f"{config.data.fingerprint}-{made(config)}",
        pictures=training,
        progress=bar("training a classifier for features"),
    )
    features = from_config.features(protocol.features)
    extractor = features.load(config.eval.weights, protocol.input, own)
    return extractor.spaces[features.layer], reader(extractor, features.layer, features.logits, mesh)


def key_of(config: ConfigDict) -> str:
    """What a judge is made of, of a config, as text: equal where the same one will do."""
    data, wanted = config.data.to_dict(), config.eval.to_dict()
    named = ("protocol", "features", "weights", "reference", "labels", "num_images", "likelihood_images")
    return repr((data, {name: wanted[name] for name in named}))


def measure(
    config: ConfigDict,
    data: Data,
    protocol: Protocol,
    space: FeatureSpace,
    read: Read,
    progress: Callable[[str], Progress],
) -> Statistics:
    """The statistics of the data, kept for the next time."""
    parts = [data.train, *([data.held_out] if protocol.test_too and data.held_out else [])]
    rows = REFERENCE_ROWS if protocol.needs else 0
    facts = {
        "protocol": protocol.name,
        "data": config.data.name,
        "split": _split(protocol),
        "images": sum(map(len, parts)),
        "rows": rows,
        "sides": list(config.data.shape[:2]),
        "channels": config.data.shape[2],
        "resize": config.data.resize,
        "fingerprint": data.fingerprint,
        "pictures": data.pictures(test_too=protocol.test_too),
    }
    wanted = {"space": statistics.plain(space), "facts": facts}
    name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    kept = cache_folder() / "statistics" / f"{name}.npz"
    found = None
    with suppress(UserError):  # absent or damaged: made anew
        found = statistics.read(kept)
    if sharding.all_processes(found is not None and {"space": found.space, "facts": found.facts} == wanted):
        assert found is not None
        return found
    taken = _read(parts, read, space, progress("features of the data"), rows)
    if taken.count < 2:
        raise UserError(f"a reference of {taken.count} images has no covariance: at least 2 are needed")
    found = Statistics(
        mean=taken.moments.mean,
        covariance=taken.moments.covariance,
        count=taken.count,
        features=taken.features if rows else None,
        labels=taken.rows("labels"),
        **wanted,
    )
    if is_first_process():
        with suppress(UserError):  # measured again next time
            statistics.write(kept, found)
    return found


def _read(
    parts: Sequence[Pictures], read: Read, space: FeatureSpace, progress: Progress, keep: int = REFERENCE_ROWS
) -> Gathered:
    batches = (batch for pictures in parts for batch in pictures.batches())
    total = sum(-(-len(pictures) // BATCH) for pictures in parts)
    return gather(lambda first: iter(progress(batches, total)), read, space.dimension, keep)


def _split(protocol: Protocol) -> str:
    return "train and test" if protocol.test_too else "train"


def _classes(config: ConfigDict) -> int:
    """How many classes an image may be of; 0 where it may be of several."""
    return len(config.data.class_names) if config.data.labels_per_image == 1 else 0


def _of_shape(config: ConfigDict, reference: Statistics, shape: tuple[int, ...]) -> ConfigDict:
    """The config of data that are not there, with the shape of the reference's images, or of those to be scored."""
    config = config.copy_and_resolve_references()
    if not config.data.shape:
        facts = reference.facts
        config.data.shape = (*facts["sides"], facts["channels"]) if facts else shape
    return config


def _check_sides(reference: Statistics, config: ConfigDict, path: str, protocol: Protocol) -> None:
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
