"""An average of any width, made of a run's power-function averages after training (Karras et al., arXiv 2312.02696)."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff.common.errors import UserError
from jdiff.training import sharding, snapshots
from jdiff.training.checkpoints import config_of, read_weights
from jdiff.training.ema import PowerEma, images_of
from jdiff.training.profiles import Profile, combination, gamma_of
from jdiff.training.snapshots import Snapshot

# Root mean square of what is left of the profile, over that of the profile. By Cauchy and Schwarz the weights are then
# off by at most (gamma + 1) / sqrt(2 gamma + 1), 1 to 4, times this share of their deviation over the training. With 32
# snapshots of 0.05 and 0.10 widths from 0.02 to 0.25 leave less.
MOST_LEFT = 0.05


def of_width(width: float, workdir: Path, step: int, averaged: PyTree, mesh: Mesh) -> PyTree:
    """The averaged parameters of the profile of this relative width that ends at the checkpoint of `step`: the sum of
    the averages of that checkpoint and of the snapshots before it whose profile is nearest, see `combination`.

    averaged: their shapes. A width that was kept is the checkpoint's own. Warns where what is left of the profile is
    more than MOST_LEFT. Raises UserError where the run keeps no such averages, or a snapshot is damaged.
    """
    folder = workdir / "checkpoints"
    widths = tuple(jdiff.config.read(config_of(folder, step)).train.ema_widths)
    check_kept(widths, width, workdir)
    kept = _of_checkpoint(folder, step, widths, averaged, mesh)
    if width in widths:
        return kept["averages"][widths.index(width)]
    end = images_of(kept)
    if not end:
        raise UserError(f"sample.ema={width:g}: no step before {step} was good: train on, or take a later checkpoint")
    before = snapshots.found(workdir / snapshots.FOLDER, before=step)
    ends = [*(one.images for one in before), end]
    profiles = [Profile(gamma_of(own), float(at)) for at in ends for own in widths]
    c, left = combination(profiles, Profile(gamma_of(width), float(end)))
    if left > MOST_LEFT:
        known, moments = ", ".join(f"{own:g}" for own in widths), f"{len(ends)} moment{'s' * (len(ends) > 1)}"
        warnings.warn(
            f"sample.ema={width:g} is made of the widths {known} at {moments} of training up to step {step}, with "
            f"{left:.0%} of its profile left over: take a width nearer to these, or train with a smaller "
            "train.ema_snapshot_every",
            stacklevel=2,
        )
    shares = c.reshape(len(ends), len(widths))
    return _sum(before, widths, shares[:-1], kept["averages"], shares[-1])


def _of_checkpoint(folder: Path, step: int, widths: tuple[float, ...], averaged: PyTree, mesh: Mesh) -> PyTree:
    """What the run's PowerEma kept at the checkpoint of `step`."""
    shapes = jax.eval_shape(PowerEma(widths=widths).init, averaged)
    found = read_weights(folder.absolute(), str(step), {"profiles": sharding.abstract(mesh, shapes)})
    assert found is not None  # it holds the checkpoint whose weights were just read
    return found[1]["profiles"]


def _sum(
    before: Sequence[Snapshot],
    widths: tuple[float, ...],
    shares: np.ndarray,
    last: Sequence[PyTree],
    last_shares: np.ndarray,
) -> PyTree:
    """The sum of the snapshots' averages [moment, width] times their shares, and of the checkpoint's times its."""
    total = {path: np.zeros(leaf.shape, np.float64) for path, leaf in flatten_dict(last[0]).items()}
    places = {
        name: (number, path)
        for number, width in enumerate(widths)
        for name, path in zip(snapshots.named(last[0], width), total, strict=True)
    }
    for snapshot, of_widths in zip(before, shares, strict=True):
        missing = set(places)
        for name, array in snapshots.read(snapshot):
            missing.discard(name)
            number, path = places.get(name, (0, ()))
            if path not in total or total[path].shape != array.shape:
                raise snapshots.damaged(snapshot.file, f"its array {name} is of another model")
            total[path] += of_widths[number] * array
        if missing:
            raise snapshots.damaged(snapshot.file, f"it lacks {min(missing)}")
    for share, average in zip(last_shares, last, strict=True):
        for path, leaf in flatten_dict(average).items():
            total[path] += share * sharding.whole(leaf)
    where = flatten_dict(last[0])
    return unflatten_dict(
        {path: jax.device_put(array.astype(where[path].dtype), where[path].sharding) for path, array in total.items()}
    )


def check_kept(widths: Sequence[float], wanted: float, workdir: Path) -> None:
    """Raises UserError where a run keeps no averages, these being the widths that it keeps."""
    if not widths:
        raise UserError(
            f"sample.ema={wanted:g}: the run in {workdir} keeps no averages to make this width of: leave sample.ema "
            "out for its ordinary average, or train another run with train.ema_widths=(0.05,0.1)"
        )


def check_ema_of_exported(config: ConfigDict, workdir: Path) -> None:
    """Raises UserError where another average is asked of weights that were exported, which are of one."""
    if config.sample.ema:
        raise UserError(
            f"sample.ema={config.sample.ema:g}: {workdir} holds exported weights, which are one average: leave "
            "sample.ema out, or export the run once more with it (--mode=export)"
        )
