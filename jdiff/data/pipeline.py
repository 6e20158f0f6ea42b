"""The Grain pipeline: source -> batches, a function of (seed, step) alone.

Epochs follow each other without end, each with its own shuffle; batch k holds rows k B .. (k+1) B - 1 of them, or those
that an order says (jdiff.data.order). The pipeline first lays out the indices of the whole (global) batch and a random
seed per row, then each process reads its own rows. So a batch does not depend on the number of processes, workers or
threads, and training resumes at batch k without any saved iterator state.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jdiff.common.errors import UserError
from jdiff.data.order import Order
from jdiff.data.sources import Source
from jdiff.data.sources.in_parts import in_parts

Batch = dict[str, Any]


@runtime_checkable
class View(Protocol):
    """record -> example, a tree of arrays; rng is a generator for this row if `is_random`, else None."""

    @property
    def is_random(self) -> bool:
        """Whether the view draws random numbers."""
        ...

    def __call__(self, record: dict[str, Any], rng: np.random.Generator | None, /) -> dict[str, Any]: ...


def train_batches(
    source: Source,
    view: View,
    *,
    batch_size: int,
    seed: int,
    order: Order | None = None,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    threads: int = 2,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Endless batches start, start + 1, ...: this process's batch_size / processes rows of each, stacked.

    order: which rows a batch has (see jdiff.data.order); None: rows k B .. of epochs that are shuffled as a whole.
    workers: reader processes (0: threads of this one). threads: per reader. prefetch: batches that each reads ahead.
    Raises UserError if a worker is killed.
    """
    import grain.python as grain  # here: it imports JAX and Orbax, which fixed_batch does without

    local = batch_size // processes
    laid_out = (
        grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat().batch(batch_size)
        if order is None
        else grain.MapDataset.source(order).seed(seed)
    )
    rows = (
        laid_out.random_map(_with_seeds)
        .slice(slice(start, None))
        .map(_Read(source, view, process * local, (process + 1) * local))
    )
    batches = rows.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch))
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags, and a notebook never parses them
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        with _signals_kept_from_children():
            ahead = _from_workers(iter(batches.mp_prefetch(options)))
            return itertools.chain([next(ahead)], ahead)
    return iter(batches)


def _from_workers(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Raises UserError if a worker process is killed. Grain itself passes on a worker's exceptions."""
    try:
        yield from batches
    except RuntimeError as error:
        if "Worker process" not in str(error):
            raise
        raise UserError(
            "a process that reads data was killed, probably for lack of memory: lower machine.workers or "
            "machine.prefetch"
        ) from error


@contextlib.contextmanager
def _signals_kept_from_children() -> Iterator[None]:
    """Processes started within are deaf to signals that a terminal or a scheduler sends to all: the main one decides.
    That one hears them meanwhile in its other threads.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would take SIGINT out of the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fixed_batch(source: Source, view: View, count: int, among: np.ndarray | None = None) -> Batch:
    """The records of `fixed_rows` as one batch. Give a view that is not random."""
    return batch_of(source, view, fixed_rows(source, count, among))


def batch_of(source: Source, view: View, chosen: np.ndarray) -> Batch:
    """The records of these rows as one batch, of one shape. Give a view that is not random."""
    return _Read(source, view, 0, len(chosen))((chosen, np.zeros(len(chosen), np.uint32)))


def fixed_rows(source: Source, count: int, among: np.ndarray | None = None) -> np.ndarray:
    """int64 [min(count, rows)], rising: a random subset of the rows, or of those `among`, the same at every call."""
    rows = np.arange(len(source)) if among is None else among
    return np.sort(np.random.default_rng(0).permutation(rows)[:count])


def _with_seeds(indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return indices, rng.integers(2**32, size=len(indices), dtype=np.uint32)


@dataclass(frozen=True)
class _Read:
    """(indices, seeds) of a global batch -> the stacked examples of its rows first .. last - 1."""

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
        return _stack([self.view(record, None) for record in records])  # a generator costs more than a small image


def _stack(examples: list[Any]) -> Any:
    """Trees of one structure -> one tree of arrays with a leading batch axis."""
    if isinstance(examples[0], dict):
        return {name: _stack([example[name] for example in examples]) for name in examples[0]}
    return np.stack(examples)
