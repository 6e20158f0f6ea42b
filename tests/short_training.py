"""A short training in this process, of what a config says."""

import jax
import numpy as np

from jdiff import from_config
from jdiff.modes import train
from jdiff.training import sharding


def losses_fall(settings, source, workdir, *, steps=200):
    """Train for so many steps; whether the losses are finite and the last fifth's median is well below the first's."""
    settings = from_config.resolve(settings, source)
    source, _ = from_config.encoded(settings, workdir, source, None)
    task = from_config.task(settings)
    one = sharding.replicated(sharding.make_mesh())
    state = jax.jit(lambda: train.initial_state(settings, task), out_shardings=one)()
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
