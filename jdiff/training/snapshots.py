"""Snapshots of the power-function averages (PowerEma) in a folder of the run: STEP.safetensors, float32.

A file holds the averages of all widths at its step by WIDTH/path.of.the.array, the images t that they have seen, and a
digest of each array. Checkpoints come and go; these stay, for any width to be made of them. Half precision would halve
them, but its rounding, 2e-4 of the weights, grows with the sum of their coefficients: for a width of 0.03 from 0.05 and
0.10 to 1.4e-3, which float32 keeps below 1e-6.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jdiff.common.errors import UserError
from jdiff.common.files import write_whole
from jdiff.common.processes import is_first_process, wait_for_all_processes
from jdiff.training.ema import images_of
from jdiff.training.sharding import whole

FOLDER = "ema"  # in a run's folder
SUFFIX = ".safetensors"
FACTS = "facts"  # in a file's metadata, JSON: {"step", "images", "digests": {name: digest}}


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that there is: its step, and the images t that its averages have seen."""

    file: Path
    step: int
    images: int


def write(folder: Path, step: int, kept: PyTree, widths: tuple[float, ...]) -> None:
    """Write the averages `kept` by a PowerEma of these widths, atomically; all processes call it. Raises OSError."""
    arrays = {
        name: whole(leaf)
        for width, average in zip(widths, kept["averages"], strict=True)
        for name, leaf in named(average, width).items()
    }
    if not is_first_process():
        return
    facts = {"step": step, "images": images_of(kept), "digests": {name: _digest(one) for name, one in arrays.items()}}
    folder.mkdir(exist_ok=True)
    metadata = {FACTS: json.dumps(facts)}
    try:
        write_whole(folder / f"{step:09d}{SUFFIX}", lambda fresh: save_file(arrays, fresh, metadata=metadata))
    except SafetensorError as error:  # of the disk, too
        raise OSError(str(error)) from error


def named(params: PyTree, width: float) -> dict[str, Array]:
    """The arrays of an average by their names in a snapshot."""
    return {f"{width:g}/{'.'.join(path)}": leaf for path, leaf in flatten_dict(params).items()}


def size(kept: PyTree) -> int:
    """Bytes of a snapshot."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(kept["averages"]))


def found(folder: Path, *, before: int) -> list[Snapshot]:
    """The snapshots of steps below `before`, rising. Raises UserError where one is damaged."""
    made = []
    for file in _files(folder):
        if _step(file) < before:
            with _opened(file) as opened:
                made.append(Snapshot(file, _step(file), _facts(opened, file)["images"]))
    return made


def read(snapshot: Snapshot) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of each array, one at a time. Raises UserError where one is not as it was saved."""
    with _opened(snapshot.file) as opened:
        digests = _facts(opened, snapshot.file)["digests"]
        for name in list(opened.keys()):
            array = opened.get_tensor(name)
            if digests.get(name) != _digest(array):
                raise damaged(snapshot.file, f"{name} is not as it was saved")
            yield name, array


def move_after(folder: Path, step: int, place: Path | None) -> None:
    """Move the snapshots of steps beyond `step` into the folder `place`, or delete them; all processes call it."""
    if is_first_process():
        for file in _files(folder):
            if _step(file) > step and place is None:
                file.unlink()
            elif _step(file) > step and place is not None:
                place.mkdir(parents=True, exist_ok=True)
                file.rename(place / file.name)
    wait_for_all_processes(f"snapshots beyond {step}")


def damaged(file: Path, why: str) -> UserError:
    """What to say of a snapshot that cannot be read."""
    return UserError(f"{file} is damaged ({why}): copy it again, or delete it, and widths are made of the others")


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise damaged(file, " ".join(str(error).split())) from error


def _facts(opened: safe_open, file: Path) -> dict[str, Any]:
    """What a snapshot says of itself."""
    try:
        return json.loads(opened.metadata()[FACTS])
    except (TypeError, KeyError, ValueError) as error:  # a header that says something else
        raise damaged(file, "it does not say of which images it is") from error


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob(f"*{SUFFIX}") if file.stem.isdigit())


def _step(file: Path) -> int:
    return int(file.stem)


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
