"""The reference that generated images are measured against, as one .npz:

    mu, sigma     mean [d] and covariance [d, d] of all images' features in float64; pytorch-fid's and EDM's names
    num           how many images
    features      [m, d] float32 of some of them, drawn at random
    labels        [m], where each image has one class
    jdiff         JSON: the space of the features, with a digest of the network's weights, and what was measured

Files of pytorch-fid (mu, sigma) and of EDM (mu, sigma, num) are read, too; they do not say which features they hold.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jdiff.common.errors import UserError
from jdiff.common.files import write_whole
from jdiff.metrics.frechet import factor
from jdiff.metrics.moments import Moments
from jdiff.networks.features.space import FeatureSpace

VERSION = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Statistics:
    """mean, covariance: of all images' features. space: theirs, as plain values; {} where a file does not say. count:
    images; 0 where it does not say. features, labels: of some images; None where there are none. facts: of the images,
    in words and numbers: "data", "images", "sides", "channels", "fingerprint".
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    space: Mapping[str, Any] = field(default_factory=dict)
    count: int = 0
    features: Float[np.ndarray, "m d"] | None = None
    labels: Int[np.ndarray, " m"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """Of all arrays."""
        digest = hashlib.sha256()
        for array in (self.mean, self.covariance, self.features, self.labels):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def moments(self) -> Moments:
        """Moments with this covariance: of the images there were, or, where nobody says how many, of two."""
        known = self.count if self.count > 1 else 2  # M2 / (2 - 1) is the covariance to the bit
        return Moments(count=known, mean=self.mean, m2=self.covariance * (known - 1))


def plain(space: FeatureSpace) -> dict[str, Any]:
    """A space as JSON has it."""
    return json.loads(json.dumps(asdict(space) | {"seen": type(space.input).__name__}))


def write(path: Path, statistics: Statistics) -> None:
    """Write the file. Raises UserError where it cannot be written."""
    said = {"version": VERSION, "space": dict(statistics.space), "facts": dict(statistics.facts)}
    arrays: dict[str, np.ndarray] = {
        "mu": statistics.mean,
        "sigma": statistics.covariance,
        "num": np.array(statistics.count),
        "jdiff": np.array(json.dumps(said)),
    }
    arrays |= {} if statistics.features is None else {"features": statistics.features}
    arrays |= {} if statistics.labels is None else {"labels": statistics.labels}

    def save(fresh: Path) -> None:
        with fresh.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another folder with --out") from error


def read(path: Path) -> Statistics:
    """The statistics in a file. Raises UserError where it holds none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"eval.reference={str(path)!r} cannot be read ({why}); --mode=stats writes one") from error
    if not {"mu", "sigma"} <= held.keys():
        there = ", ".join(sorted(held)) or "nothing"
        raise UserError(f"{path} holds no statistics, mu and sigma, but {there}; --mode=stats writes some of images")
    mean, sigma = np.asarray(held["mu"], np.float64), np.asarray(held["sigma"], np.float64)
    if mean.ndim != 1 or sigma.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: mu is {list(mean.shape)} and sigma {list(sigma.shape)}; they must be [d] and [d, d]")
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise UserError(f"{path}: mu or sigma holds values that are not finite")
    try:
        factor(mean, sigma)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    said = _said(path, held)
    count = int(held.get("num", 0))
    return Statistics(
        mean=mean,
        covariance=sigma,
        space=said.get("space", {}),
        count=count,
        features=held.get("features"),
        labels=held.get("labels"),
        facts=said.get("facts", {}),
    )


def check_same(reference: Statistics, space: FeatureSpace, path: str) -> None:
    """Raises UserError that names what differs where the reference's features are others than those of `space`."""
    dimensions, theirs = len(reference.mean), reference.space
    if not theirs:
        if dimensions != space.dimension:
            raise UserError(
                f"{path} holds statistics of {dimensions} dimensions, and {space.name} has {space.dimension}: they are "
                "of other features"
            )
        return
    ours = plain(space)
    for name in ("name", "weights", "seen", "input", "dimension"):
        if theirs.get(name) != ours[name]:
            raise UserError(
                f"{path} holds statistics of other features: {name} is {_short(theirs.get(name))} there, "
                f"{_short(ours[name])} here; distances between them mean nothing. Make them anew with --mode=stats"
            )


def check_split(reference: Statistics, wanted: str, path: str, protocol: str) -> None:
    """Raises UserError where the reference is of other splits than a protocol takes."""
    split = reference.facts.get("split", wanted)
    if split != wanted:
        raise UserError(
            f"{path} is of the images of {split} (by the protocol {reference.facts.get('protocol', 'jdiff')}), and the "
            f"protocol {protocol} takes those of {wanted}; make it anew by --mode=stats with eval.protocol={protocol}"
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)


def _said(path: Path, held: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "jdiff" not in held:
        return {}
    try:
        said = json.loads(str(held["jdiff"]))
        version = said["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: what it says of itself cannot be read; make it anew") from error
    if version != VERSION:
        raise UserError(f"{path} is of another version of jdiff ({version}); make it anew with --mode=stats")
    return said
