"""Checkpoints: what is kept, what a crash leaves, what comes back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdiff.common import distributed
from jdiff.common.errors import UserError
from jdiff.training import sharding
from jdiff.training.checkpoints import Checkpoints, read_weights
from jdiff.training.step import init_state

MESH = sharding.make_mesh()


def new_state():
    params = {"a": jax.random.normal(jax.random.key(0), (64, 65)), "b": jnp.arange(3.0)}
    return init_state(params, {"counts": jnp.ones(2)}, optax.adam(1e-3), jax.random.key(7))


def at(step, state=None):
    return dataclasses.replace(state or new_state(), step=jnp.int32(step))


def abstract():
    return sharding.abstract(MESH, jax.eval_shape(new_state))


def save_all(folder, losses, keep_last=2):
    with Checkpoints(folder, keep_last=keep_last) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(at(step), config={"seed": 0}, score=loss)
            checkpoints.wait()


def test_the_last_and_the_best_are_kept_across_restarts(tmp_path):
    save_all(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0})
    save_all(tmp_path, {4: 1.5, 5: 1.7, 6: 1.6})
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (6, 2)
        assert [checkpoints.find(name) for name in ("latest", "best", "5")] == [6, 2, 5]
        with pytest.raises(UserError, match="there are 2, 5, 6"):
            checkpoints.find("4")


def test_everything_comes_back(tmp_path):
    save_all(tmp_path, {3: None})
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(3, abstract())
    step, weights = read_weights(tmp_path, "latest", {"ema": abstract().ema, "task_state": abstract().task_state})
    assert step == 3
    expected = at(3)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for name in ("step", "key", "params", "ema", "task_state", "opt_state", "skipped", "skipped_in_row"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(expected, name))
    jax.tree.map(np.testing.assert_array_equal, weights["ema"], expected.ema)


def test_a_crash_in_the_middle_of_a_save_is_swept_away(tmp_path):
    save_all(tmp_path, {1: 1.0})
    torn = tmp_path / "2.orbax-checkpoint-tmp"
    (torn / "weights").mkdir(parents=True)
    (torn / "weights" / "half").write_bytes(b"...")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        checkpoints.save(at(2), config={}, score=0.5)
        checkpoints.wait()
        assert checkpoints.latest() == 2


def test_another_model_is_told_only_once_no_other_process_has_died(tmp_path, monkeypatch):
    save_all(tmp_path, {3: None})
    waited = []
    monkeypatch.setattr(distributed, "wait_for_verdict", lambda: waited.append(True))
    wrong = {"ema": {"a": jax.ShapeDtypeStruct((2, 2), jnp.float32)}, "task_state": {}}
    with pytest.raises(UserError, match="cannot be read as this model's"):
        read_weights(tmp_path, "latest", sharding.abstract(MESH, wrong))
    assert waited


def test_no_checkpoint_at_all(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.best() is None
        assert checkpoints.find("latest") is None
