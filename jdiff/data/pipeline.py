"""The Grain pipeline: source -> batches, a function of (seed, step) alone.

Batch k holds rows k B .. (k+1) B - 1 of an endless row of epochs, each shuffled anew. Indices and a random seed for
every row are laid out first, for the whole (global) batch; then a process reads its own rows. So a batch does not
depend on how many processes, workers or threads read it, and training resumes at batch k by starting there: no
iterator's state.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain.python as grain
import numpy as np
from absl import flags

from jdiff.common.errors import UserError
from jdiff.data.sources import Source
from jdiff.data.sources.parts import in_parts

Batch = dict[str, Any]


@runtime_checkable
class View(Protocol):
    """record -> example. It is given a generator of its own for each row where `is_random`, else None."""

    @property
    def is_random(self) -> bool: ...

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None, /) -> dict[str, Any]: ...


def train_batches(
    source: Source,
    view: View,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """This process's rows of the batches start, start + 1, ... (batch_size / processes rows each).

    workers: processes that read ahead (0: threads of this one); prefetch: batches read ahead by each.
    """
    local = batch_size // processes
    rows = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .batch(batch_size)
        .random_map(_with_seeds)
        .slice(slice(start, None))
        .map(_Read(source, view, process * local, (process + 1) * local))
    )
    batches = rows.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch))
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        with _no_interrupt():
            ahead = _from_workers(iter(batches.mp_prefetch(options)))
            return itertools.chain([next(ahead)], ahead)
    return iter(batches)


def _from_workers(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Raises UserError where a worker process is killed; what it raises itself, Grain raises here."""
    try:
        yield from batches
    except RuntimeError as error:
        if "Worker process" not in str(error):
            raise
        raise UserError(
            "a process that reads data was killed, as happens where memory runs out: lower machine.workers or "
            "machine.prefetch"
        ) from error


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which a terminal sends to all of them: the main one decides."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def fixed_batch(source: Source, view: View, count: int) -> Batch:
    """`count` records (at most all), always the same ones: a fixed draw from the source, unaugmented rows in order."""
    chosen = fixed_rows(source, count)
    return _Read(source, view, 0, len(chosen))((chosen, np.zeros(len(chosen), np.uint32)))


def fixed_rows(source: Source, count: int) -> np.ndarray:
    """The rows of `fixed_batch`."""
    return np.sort(np.random.default_rng(0).permutation(len(source))[:count])


def _with_seeds(indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return indices, rng.integers(2**32, size=len(indices), dtype=np.uint32)


@dataclass(frozen=True)
class _Read:
    """(indices, seeds) of a global batch -> rows first .. last - 1 of it, read, viewed and stacked."""

    source: Source
    view: View
    first: int
    last: int

    def __call__(self, rows: tuple[np.ndarray, np.ndarray]) -> Batch:
        indices, seeds = (part[self.first : self.last] for part in rows)
        parts = in_parts(self.source, indices.tolist(), self.source.__getitems__)
        records = itertools.chain.from_iterable(part for _, part in parts)
        if self.view.is_random:
            generators = map(np.random.default_rng, seeds)
            return _stack([self.view(record, rng) for record, rng in zip(records, generators, strict=True)])
        return _stack([self.view(record, None) for record in records])  # a generator takes longer than a small image


def _stack(examples: list[Any]) -> Any:
    """Examples of one tree shape -> one tree of arrays with a leading batch axis."""
    if isinstance(examples[0], dict):
        return {name: _stack([example[name] for example in examples]) for name in examples[0]}
    return np.stack(examples)
