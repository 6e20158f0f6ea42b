"""What every side is given: the same images, split, number of steps and number of parameters."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from configs import digits, fashion_mnist
from jdiff import from_config
from jdiff.common.files import replace_file

CLASSES = 10
IMAGES = 1000  # drawn for each score, as many of every class
CLOSE = 0.02  # how far numbers of parameters may be apart

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Work:
    """A data set and a recipe of ours, `configs/<name>.py` with the keys of `settings` changed."""

    name: str
    settings: dict[str, Any]
    nfes: tuple[int, ...]
    flip: bool = False  # mirrored at random in training, on every side
    samplers: Mapping[str, tuple[str, ...]] | None = None  # by side, one for each of nfes; None: all that it has

    @cached_property
    def config(self) -> ConfigDict:
        config = {"digits": digits, "fashion_mnist": fashion_mnist}[self.name].get_config()
        with config.unlocked():
            config.update_from_flattened_dict(self.settings)
        return config

    def samplers_of(self, side: "Side", nfe: int) -> tuple[str, ...]:
        if self.samplers is None:
            return side.samplers(nfe)
        return (self.samplers[side.name][self.nfes.index(nfe)],)

    @cached_property
    def train(self) -> tuple[Images, Labels]:
        return self._read(0)

    @cached_property
    def held_out(self) -> tuple[Images, Labels]:
        return self._read(1)

    def _read(self, part: int) -> tuple[Images, Labels]:
        source: Any = from_config.sources(self.config)[part]
        records = source.__getitems__(range(len(source)))
        return np.stack([record["image"] for record in records]), np.array([record["label"] for record in records])

    def batches(self, steps: int, seed: int) -> Iterator[tuple[UInt8[np.ndarray, "b h w c"], Labels]]:
        """As many batches as steps, epoch after epoch, each in an order of its own."""
        images, labels = self.train
        size, rng = self.config.train.batch_size, np.random.default_rng(seed)
        order = np.empty(0, np.int64)
        for _ in range(steps):
            while len(order) < size:
                order = np.concatenate([order, rng.permutation(len(images))])
            rows, order = order[:size], order[size:]
            batch = images[rows]
            if self.flip:
                mirrored = rng.random(size) < 0.5
                batch = np.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch)
            yield batch, labels[rows]


def asked() -> Labels:
    """The class of each image that is drawn."""
    return np.arange(IMAGES) % CLASSES


@dataclass(frozen=True)
class Side:
    """A library with a recipe.

    train: (work, steps, seed, parameters of ours, folder) -> its parameters; leaves in the folder what `load` needs.
    load: (work, folder) -> (sampler, NFE, seed) -> IMAGES images of the classes of `asked`. samplers: NFE -> names.
    """

    name: str
    train: Callable[[Work, int, int, int, Path], int]
    load: Callable[[Work, Path], Callable[[str, int, int], Images]]
    samplers: Callable[[int], tuple[str, ...]]


def trained(side: Side, work: Work, steps: int, seed: int, parameters: int, folder: Path) -> dict[str, Any]:
    """{"parameters", "cpu_seconds", "steps"} of a side, trained unless it was before."""
    note = folder / "trained.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        count = side.train(work, steps, seed, parameters, folder)
        told = {"parameters": count, "cpu_seconds": time.process_time() - began, "steps": steps}
        if parameters and abs(count / parameters - 1) > CLOSE:
            raise SystemExit(f"{side.name} has {count:,} parameters, more than 2 % from our {parameters:,}")
        replace_file(note, json.dumps(told))
    return json.loads(note.read_text())


def samples_file(folder: Path, sampler: str, nfe: int) -> Path:
    return folder / f"{sampler}_{nfe}.npz"
