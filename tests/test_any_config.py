"""Random configs over base.py's table: each is traced whole, task, sampler and ladder, or refused in one line."""

import math
import re
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jdiff.config
from jdiff import from_config, request
from jdiff.common.errors import UserError
from jdiff.compiled import walk
from jdiff.from_config.networks import NETWORKS
from jdiff.from_config.sampling import LADDERS, SAMPLERS
from jdiff.modes.train import check_batch_size
from jdiff.resolve import resolve
from jdiff.tasks import Weights
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training import sharding
from jdiff.weights.start import with_pretrained_network
from tests.test_shipped_configs import StandIn, stand_in

BASE = (
    "--config.network.channels=8",
    "--config.network.channel_mults=(1,)",
    "--config.network.attention_levels=()",
    "--config.network.width=16",
    "--config.network.depth=1",
    "--config.condition.text.width=16",
    "--config.train.batch_size=8",
    "--config.sample.num_images=3",
    "--config.sample.batch_size=3",
    "--config.sample.steps=4",
)
CHOICES = {
    "task": ("diffusion", "flow_map", "classifier"),
    "model.schedule": ("edm", "ve", "vp", "cosine_continuous", "flow", "linear", "cosine", "sigmoid_alpha_bar"),
    "model.prediction": ("edm", "eps", "x0", "v", "flow"),
    "model.conditions": ("()", "('label',)", "('image',)", "('scalars',)", "('label','image')", "('lable',)"),
    "network.name": tuple(NETWORKS),
    "network.block": ("residual", "vgg", "dense", "inception"),
    "network.norm": ("group", "layer", "rms", "instance"),
    "network.attention": ("self", "cross", "transformer"),
    "network.resample": ("conv", "residual", "pool"),
    "network.dtype": ("float32", "bfloat16", "float16"),
    "network.noise_embedding": ("sinusoidal", "fourier"),
    "objective.draw": ("lognormal", "log_uniform", "logit_normal", "uniform", "steps"),
    "objective.weight": ("simple", "edm", "min_snr", "soft_min_snr", "p2", "v_uniform"),
    "objective.loss": ("l2", "l1", "huber"),
    "condition.image.view": ("as_is", "thumbnail", "grey", "xdog"),
    "condition.image.into": ("concat", "cross_attention"),
    "train.optimizer": ("adam", "adamw"),
    "train.schedule": ("constant", "cosine", "linear", "inverse_sqrt"),
    "sample.sampler": tuple(SAMPLERS),
    "sample.ladder": ("auto", *LADDERS),
    "sample.variance": ("small", "large", "learned"),
    "flow_map.loss": ("consistency", "continuous_consistency", "mean_flow", "shortcut"),
    "flow_map.derivative": ("auto", "forward", "difference"),
    "guidance.method": ("classifier_free", "cfg_plus_plus", "autoguidance", "classifier", "trained_in"),
    "guidance.threshold": ("none", "static", "dynamic"),
}
# What only the data, their files or this machine tell.
ELSEWHERE = re.compile(
    r"data\.(name|dir|folders|suffixes|halves|names|masks|shape|class_names|dtype|range|alpha)|log\."
)
TABLE = {name: setting for name, setting in jdiff.config.settings().items() if not ELSEWHERE.match(name)}


def numbers(setting):
    """In the interval, at its ends, just outside, and what is no number at all."""
    low, high = (jdiff.common.settings._number(end) for end in setting.allowed[1:-1].split(","))
    whole = setting.kind is int or (setting.kind is None and type(setting.default) is int) or setting.of is int
    near = [low, high, low - 1, high + 1, low + 1, 0, 1, 2, 3, 8]
    finite = [value for value in near if math.isfinite(value)]
    small = st.integers(0, 64) if whole else st.floats(-2, 100, allow_nan=False)
    known = [str(int(value)) if whole else repr(float(value)) for value in finite]
    return st.one_of(
        small.map(str), st.sampled_from([*known, "nan", "inf", "-inf", "1e400", "-1", "0.5", "two", "", "None"])
    )


def texts_of(name, setting):
    """How a user may write a value of this key on the command line."""
    default = setting.default
    if isinstance(default, bool):
        return st.sampled_from(["true", "false", "true", "false", "true", "false", "1", "maybe"])
    if name in CHOICES:
        return st.sampled_from([*CHOICES[name] * 3, "hune", ""])
    if isinstance(default, tuple):
        each = numbers(setting) if setting.allowed else st.sampled_from(["'label'", "'a'", "3"])
        return st.lists(each, max_size=3).map(lambda parts: f"({','.join(parts)}{',' if parts else ''})")
    return numbers(setting) if setting.allowed else st.sampled_from(["latest", "x", "", "3"])


CHANGES = st.lists(
    st.sampled_from(sorted(TABLE)).flatmap(lambda name: st.tuples(st.just(name), texts_of(name, TABLE[name]))),
    min_size=1,
    max_size=4,
)


def traced(arguments):
    """What training and sampling by this config begin with, no number computed but the ladder's."""
    config = jdiff.config.override(jdiff.config.load("digits"), [*BASE, *arguments])
    jdiff.config.check(config)
    mesh = sharding.make_mesh(fsdp=config.machine.fsdp)
    check_batch_size(config, mesh)
    data = stand_in(config)
    data = StandIn(data.pictures, scalar_names=("age",))
    config = with_pretrained_network(resolve(config, data), Path("nowhere"))
    task = from_config.task(config)
    assert from_config.total_steps(config) > 0
    batch = from_config.example(config, 2)
    key = jax.random.key(0)
    params, state = jax.eval_shape(task.init, key, batch)
    loss, _ = jax.eval_shape(task.loss, params, state, batch, key, jnp.int32(0))
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    jax.eval_shape(from_config.optimizer(config).init, params)
    rate = from_config.rate(config)
    assert np.isfinite(rate(3) if callable(rate) else rate)
    assert 0 <= from_config.ema(config).decay(jnp.int32(3), config.train.batch_size) <= 1
    if not isinstance(task.sampling_task, DiffusionTask):
        return
    schedule = task.sampling_task.parameterization.schedule
    request.check(config, schedule)
    wanted = request.read(config, schedule, {}, conditions=None)
    assert np.isfinite(wanted.sigmas).all()
    assert (np.diff(wanted.sigmas) < 0).all()
    if from_config.helper_runs(config) and wanted.guided:
        return
    rows = {"indices": jnp.arange(2, dtype=jnp.uint32), "cond": batch["cond"]}
    shape = task.sampling_task.space.shape
    images, *_ = jax.eval_shape(
        partial(walk, task.sampling_task, mesh, sampler=wanted.sampler),
        *(task.merged(Weights(params, state)), wanted.guidances(jnp.float32(2), {})),
        *(jnp.uint32(0), wanted.sigmas, rows),
    )
    assert images.shape == (2, *shape)


def outcome(changes):
    """ "traced", or the one line of the refusal; any other error is raised."""
    try:
        traced([f"--config.{name}={value}" for name, value in changes])
    except UserError as error:
        return " ".join(str(error).split())
    return "traced"


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_any_config_is_traced_or_refused_in_one_line(changes):
    assert outcome(changes)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(CHANGES)
def test_a_thousand_configs_are_traced_or_refused_in_one_line(changes):
    assert outcome(changes)
