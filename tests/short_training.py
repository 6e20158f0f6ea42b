"""A short training in this process, of what a config says."""

import numpy as np

from jdiff import from_config
from jdiff.modes import train
from jdiff.resolve import resolve
from jdiff.training import sharding
from jdiff.weights.start import begin


def losses_fall(settings, source, workdir, *, steps=200):
    """Train for so many steps; whether the losses are finite and the last fifth's median is well below the first's."""
    settings = resolve(settings, source)
    source, _ = train.with_texts(settings, workdir, source, None)
    task = from_config.task(settings)
    state = begin(settings, task, sharding.make_mesh(), None, 0)
    step = train.make_step(settings, task, state)
    batches, losses = train.open_batches(settings, source, 0), []
    for _ in range(steps):
        state, logs = step(state, next(batches))
        losses.append(logs["loss"])
    losses = np.array(losses)
    assert np.isfinite(losses).all()
    part = steps // 5
    first, last = np.median(losses[:part]), np.median(losses[-part:])
    return last < first - 0.15 * abs(first)
