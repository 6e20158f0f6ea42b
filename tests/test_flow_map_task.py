"""The flow-map task, as the command trains it and samplers use it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.config import of_run
from jdiff.diffusion.draws import LogNormal
from jdiff.diffusion.guidance import GUIDANCE_SCALE
from jdiff.diffusion.objective import Objective
from jdiff.modes.train import make_step
from jdiff.tasks import flow_map
from jdiff.training import sharding
from jdiff.training.step import init_state
from jdiff.weights.read import pretrained_weights
from jdiff.weights.start import begin
from tests.conftest import REPOSITORY, TINY_DIT, config, run_here

LOSSES = ("consistency", "mean_flow", "shortcut")  # what they score falls; sCT's tangent need not


def tuned(run, **settings):
    """The config of a run that tunes `run` to a flow map."""
    made = of_run(run.workdir)
    made.task = "flow_map"
    made.train.initial = str(run.workdir)
    for name, value in settings.items():
        *groups, key = name.split("__")
        group = made
        for part in groups:
            group = group[part]
        group[key] = value
    return made


def batch():
    rng = np.random.default_rng(0)
    images = np.tile(rng.integers(0, 256, (4, 8, 8, 1)), (4, 1, 1, 1)).astype(np.uint8)
    return {"x0": jnp.asarray(images), "cond": {"label": jnp.arange(16) % 4}}


@pytest.mark.parametrize("loss", ["consistency", "mean_flow"])
def test_after_the_upgrade_the_model_answers_as_before(dit_run, loss):
    """To the bit, and wherever it goes: what is new adds zeros."""
    base = jdiff.load(dit_run.workdir)
    made = tuned(dit_run, flow_map__loss=loss, flow_map__scales=(1.0, 3.0), flow_map__instants=0.5)
    weights, notes = pretrained_weights(made, base.mesh)
    task = from_config.task(made).sampling_task
    x = 2.0 * jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    sigma, cond = jnp.geomspace(0.01, 60.0, 8), {"label": jnp.arange(8)}

    def answer(task, weights, **given):
        extra = {GUIDANCE_SCALE: jnp.full(8, 2.5)} if given.pop("guided", False) else {}
        return jax.jit(lambda x: task.denoiser(weights)(x, sigma, {**cond, **extra}, given.get("to")).x0)(x)

    before = answer(base.task, base.weights)
    for given in ({}, {"to": sigma}, {"to": 0.3 * sigma}, {"to": 0.0 * sigma, "guided": True}):
        np.testing.assert_array_equal(answer(task, weights, **given), before)
    assert any("jump" in note and "is new" in note for note in notes)


SMALL = {"network__dtype": "bfloat16", "network__remat": True, "lora__rank": 4, "train__learning_rate": 3e-2}
GUIDED = {"flow_map__scales": (1.0, 3.0), "flow_map__instants": 0.5, "train__accumulate": 2}


def scores_of(made, steps, fsdp=1):
    """(the loss before some steps on one batch from train.initial, that after), each over 16 fixed draws."""
    made.train.warmup_images, made.train.ema_halflife_images = 0, 100
    task, mesh = from_config.task(made), sharding.make_mesh(fsdp=fsdp)
    state = begin(made, task, mesh, None, 0)
    rows = jax.device_put(batch(), sharding.of_batch(mesh))

    @jax.jit
    def score(state):
        def one(number):
            key = jax.random.fold_in(jax.random.key(1), number)
            return task.loss(state.params, state.task_state, rows, key, state.step, train=False)[0]

        return jnp.mean(jax.lax.map(one, jnp.arange(16)))

    step, before = make_step(made, task, state), float(score(state))
    for _ in range(steps):
        state, _ = step(state, rows)
    assert int(state.skipped) == 0
    return before, float(score(state))


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("consistency", SMALL),
        *(pytest.param(loss, SMALL, marks=pytest.mark.slow) for loss in LOSSES[1:]),
        pytest.param("mean_flow", GUIDED, marks=pytest.mark.slow),
    ],
    ids=[*(f"{loss}, bfloat16, remat, low-rank" for loss in LOSSES), "mean_flow, guided, two microbatches"],
)
def test_each_loss_falls(tiny_run, loss, settings):
    before, after = scores_of(tuned(tiny_run, flow_map__loss=loss, flow_map__q=2.0, **settings), 40)
    assert after < 0.95 * before


SHARDED = """
from pathlib import Path
import jax, numpy as np
from tests.test_flow_map_task import LOSSES, scores_of, tuned
from tests.conftest import Run
assert jax.device_count() == 4
for loss in LOSSES:
    before, after = scores_of(tuned(Run(Path({run!r}), None), flow_map__loss=loss, flow_map__q=2.0), 40, fsdp=2)
    print("loss", loss, after < 0.9 * before, before, after)
"""


@pytest.mark.slow
def test_each_loss_falls_with_parameters_in_shards(dit_run):
    flags = "--xla_force_host_platform_device_count=4"
    ran = subprocess.run(
        [sys.executable, "-c", SHARDED.format(run=str(dit_run.workdir))],
        env={**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}"},
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = [line.split()[1:3] for line in ran.stdout.splitlines() if line.startswith("loss ")]
    assert told == [[loss, "True"] for loss in LOSSES], ran.stdout


@pytest.mark.parametrize("loss", ["continuous_consistency", "mean_flow"])
def test_a_tangent_that_is_no_number_is_skipped(dit_run, loss, monkeypatch):
    made = tuned(dit_run, flow_map__loss=loss)
    made.train.initial = ""
    task, key = from_config.task(made), jax.random.key(0)
    along = flow_map.along

    def broken(*arguments, **settings):
        value, change = along(*arguments, **settings)
        return value, change.at[0].set(jnp.nan)

    monkeypatch.setattr(flow_map, "along", broken)
    params, state = task.init(key, batch())
    started = init_state(params, state, from_config.optimizer(made), key, task.averaged)
    before = jax.tree.map(np.asarray, started.params)
    after, _ = make_step(made, task, started)(started, batch())
    assert (int(after.skipped), int(after.skipped_in_row), int(after.step)) == (1, 1, 1)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, after.params))


def test_rough_embeddings_are_differenced(dit_run):
    """c_noise = 1000 t: over +-10 % of sigma its sinusoids average out."""
    made = tuned(dit_run, flow_map__loss="mean_flow")
    assert from_config.task(made).losses.window is None
    made.model.schedule = "flow"
    assert from_config.task(made).losses.window == flow_map.WINDOW
    made.flow_map.derivative = "forward"
    assert from_config.task(made).losses.window is None


def test_a_stratified_draw_reaches_all_levels_in_jumps_and_in_instants(dit_run):
    """The first rows of a stratified draw are its lowest."""
    made = tuned(dit_run, flow_map__loss="mean_flow", flow_map__instants=0.5, objective__stratified=True)
    made.train.initial = ""
    task, levels = from_config.task(made), []

    class Recorded(Objective):
        def sigmas(self, key, count):
            levels.append(super().sigmas(key, count))
            return levels[-1]

    objective = Recorded(**{one.name: getattr(task.task.objective, one.name) for one in fields(task.task.objective)})
    task = replace(task, task=replace(task.task, objective=objective))
    params, state = task.init(jax.random.key(0), batch())
    task.loss(params, state, batch(), jax.random.key(1), jnp.int32(0))
    assert [len(some) for some in levels] == [8, 8]
    middle = float(np.exp(made.objective.mean))
    assert all(float(some.min()) < middle < float(some.max()) for some in levels)


def test_mean_flow_draws_s_as_sigma_where_nothing_else_is_said(dit_run):
    made = tuned(dit_run, flow_map__loss="mean_flow", objective__draw="uniform")
    task = from_config.task(made)
    assert task.losses.to == task.task.objective.draw
    made.flow_map.to_std = 2.0
    assert from_config.task(made).losses.to == LogNormal(made.objective.mean, 2.0)
    made.flow_map.to_mean, made.flow_map.to_std = 0.3, None
    assert made.objective.std is None  # as where a config does not say
    for made.objective.draw in ("uniform", "lognormal"):
        assert from_config.task(made).losses.to == LogNormal(0.3, LogNormal().std)


@pytest.mark.slow
def test_low_rank_shortcuts_accumulate(tiny_run):
    """The averaged weights are handed to the loss, and are no part of what a microbatch hands to the next."""
    settings = {"flow_map__loss": "shortcut", "lora__rank": 4, "train__accumulate": 2}
    made = tuned(tiny_run, **settings)
    task, mesh = from_config.task(made), sharding.make_mesh()
    state = begin(made, task, mesh, None, 0)
    after, logs = make_step(made, task, state)(state, jax.device_put(batch(), sharding.of_batch(mesh)))
    assert np.isfinite(logs["loss"])
    assert jax.tree.structure(after) == jax.tree.structure(state)


FLOW_MAP = ("--config.task=flow_map", "--config.train.optimizer=adam", "--config.train.schedule=constant")


@pytest.fixture(scope="module")
def jumping_run(dit_run, tmp_path_factory):
    """A mean flow, of a few steps from `dit_run`, with a guidance that is trained in."""
    folder = tmp_path_factory.mktemp("jumping")
    result = run_here(
        config("digits"),
        *TINY_DIT,
        *FLOW_MAP,
        "--config.flow_map.loss=mean_flow",
        "--config.flow_map.scales=(1.0,3.0)",
        f"--config.train.initial={dit_run.workdir}",
        "--config.train.steps=5",
        "--config.train.holdout_images=33",  # of the last part, of one, there is no instant
        "--config.sample.sampler=flow_map",
        "--config.sample.guidance_scale=None",
        "--workdir=run",
        cwd=folder,
    )
    assert result.status == 0, result.err
    assert "conditioner/embedders_jump/dense_1/kernel" in result.err + result.out
    return folder / "run"


def test_the_command_trains_and_samples(jumping_run, tmp_path):
    logged = [json.loads(line) for line in (jumping_run / "metrics.jsonl").read_text().splitlines()]
    assert {"jump_error", "instant_error"} <= logged[0].keys()
    assert {"holdout_jump_error", "holdout_instant_error"} <= logged[-1].keys()
    model = jdiff.load(jumping_run)
    for given in ({"sampler": "flow_map", "steps": 1}, {"sampler": "consistency", "steps": 2}, {"sampler": "heun"}):
        assert model.sample(4, **given).shape == (4, 8, 8, 1)
    calls = [batch.calls for batch in model.stream(4, sampler="flow_map", steps=2)]
    assert calls == [2]


def test_guidance_that_is_trained_in_costs_one_pass(jumping_run):
    model = jdiff.load(jumping_run)
    asked = model.request(4, method="trained_in", guidance_scale=2.5, steps=2)
    assert asked.passes() == 1
    assert model.request(4, guidance_scale=2.5, steps=2).passes() == 2
    assert model.sample(4, method="trained_in", guidance_scale=2.5, steps=1).shape == (4, 8, 8, 1)


def test_one_scale_may_be_trained_in(jumping_run):
    model = jdiff.load(jumping_run)
    config = model.config.copy_and_resolve_references()
    config.flow_map.scales = (2.0, 2.0)
    assert model.with_config(config).request(4, method="trained_in", guidance_scale=2.0).passes() == 1


def with_keys(model, **keys):
    """The model with other keys of its config."""
    made = model.config.copy_and_resolve_references()
    for name, value in keys.items():
        group, _, key = name.partition("__")
        made[group][key] = value
    return model.with_config(made)


def test_steps_do_not_silently_leave_a_ladder_by_hand_as_it_is(jumping_run):
    model = with_keys(jdiff.load(jumping_run), sample__ladder="by_hand", sample__sigmas=(80.0, 1.0))
    assert model.request(1, steps=2).sigmas.tolist() == [80.0, 1.0, 0.0]
    with pytest.raises(UserError, match=r"sample.steps=1 does not change.*of 2 rungs.*set sample.ladder=auto"):
        model.request(1, steps=1)
    assert model.request(1, steps=1, ladder="auto").sigmas.tolist() == [80.0, 0.0]
    assert model.request(1, steps=1, sigmas=(40.0,)).sigmas.tolist() == [40.0, 0.0]


def test_a_model_that_is_always_guided_is_not_asked_for_less(jumping_run):
    model = with_keys(jdiff.load(jumping_run), flow_map__scales=(2.0, 4.0))
    assert model.request(2, method="trained_in", guidance_scale=2.0).passes() == 1
    for asked in (
        {},
        {"guidance_scale": 1.0},
        {"guidance_scale": 3.0},
        {"method": "trained_in"},
        {"method": "trained_in", "guidance_scale": 2.0, "sigma_high": 5.0},
    ):
        with pytest.raises(UserError, match=r"has no 1.*set guidance.method=trained_in and sample.guidance_scale=2"):
            model.request(2, **asked)


def test_what_a_model_without_instants_is_asked_is_told_at_once(dit_run, jumping_run):
    """No advice that the next call refuses, and no number of what was never learned."""
    model, images = jdiff.load(jumping_run), np.zeros((1, 8, 8, 1), np.uint8)
    x = images.astype(np.float32)
    none = with_keys(model, flow_map__instants=0.0, flow_map__scales=())
    with pytest.raises(UserError, match=r"set sample\.sampler=flow_map"):
        none.request(2, sampler="heun")
    assert none.request(2, sampler="flow_map").count == 2
    lands = with_keys(none, flow_map__loss="consistency", flow_map__instants=None)
    for model in (none, lands):
        for ask in (
            lambda: model.invert(images),  # noqa: B023
            lambda: model.bits_per_dim(images, sampler="consistency"),  # noqa: B023
            lambda: model.denoise(x, 2.0),  # noqa: B023
        ):
            with pytest.raises(UserError, match=r"posterior mean.*did not learn.*flow_map.instants=0.25"):
                ask()
    assert none.denoise(x, 2.0, to=0.5).shape == x.shape
    assert lands.denoise(x, 2.0, to=0.0, sampler="consistency").shape == x.shape
    with pytest.raises(UserError, match="learned those to 0 alone"):
        lands.denoise(x, 2.0, to=0.5, sampler="consistency")
    with pytest.raises(UserError, match="sigma=0 must be above 0"):
        model.denoise(x, 0.0)
    plain = jdiff.load(dit_run.workdir)
    with pytest.raises(UserError, match="does not know where a jump of this sampler ends"):
        jdiff.load(jumping_run).sample(
            2, sampler="flow_map", method="autoguidance", weak_workdir=str(dit_run.workdir), guidance_scale=2.0
        )
    assert plain.sample(2, method="autoguidance", weak_workdir=str(jumping_run), guidance_scale=2.0).shape[0] == 2


def test_the_ladder_of_jumps_has_no_rung_at_the_lower_end(jumping_run):
    model = jdiff.load(jumping_run)
    assert model.request(1, steps=1).sigmas.tolist() == [80.0, 0.0]
    two = model.request(1, steps=2).sigmas
    assert [two[0], two[2]] == [80.0, 0.0]
    assert 1 < two[1] < 4


REFUSED = {
    "flow_map on a model that learned no jumps": (
        "dit",
        {"sampler": "flow_map"},
        "sample.sampler='flow_map' asks where the flow ends, which task='diffusion' did not learn",
    ),
    "a scale that was not trained in": (
        "jumping",
        {"method": "trained_in", "guidance_scale": 5.0},
        "sample.guidance_scale=5.0 of trained_in must lie in [1, 3]",
    ),
    "trained_in of a model without": (
        "dit",
        {"method": "trained_in", "guidance_scale": 2.0},
        "this model learned none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_learned_is_refused(dit_run, jumping_run, case):
    of, settings, message = REFUSED[case]
    model = jdiff.load(dit_run.workdir if of == "dit" else jumping_run)
    with pytest.raises(UserError, match=re.escape(message)):
        model.sample(2, **settings)


def test_the_model_says_d(dit_run, jumping_run):
    """D(x, sigma, to) on the host; wrong ends are told."""
    model, plain = jdiff.load(jumping_run), jdiff.load(dit_run.workdir)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 1)) * 2
    task, weights, cond = model.task, model.weights, {"label": jnp.arange(3)}
    expected = task.denoiser(weights)(jnp.asarray(x, jnp.float32), jnp.full(3, 2.0), cond, jnp.full(3, 0.5)).x0
    np.testing.assert_allclose(model.denoise(x, 2.0, to=0.5, labels=[0, 1, 2]), expected, atol=1e-5)
    np.testing.assert_array_equal(model.denoise(x, 2.0, to=2.0), model.denoise(x, 2.0))
    assert plain.denoise(x, 2.0).shape == x.shape
    with pytest.raises(UserError, match=r"to=3 must lie between 0 and sigma=2: a jump goes down"):
        model.denoise(x, [1.0, 2.0, 4.0], to=[1.0, 3.0, 3.0])
    with pytest.raises(UserError, match=r"to: this model learned D\(x, sigma\) alone"):
        plain.denoise(x, 2.0, to=1.0)
    with pytest.raises(UserError, match="jumps down alone: invert with ode"):
        model.invert(np.zeros((1, 8, 8, 1)), sampler="flow_map")


def test_a_consistency_model_jumps_to_the_end_alone(dit_run):
    """Samplers that integrate, and other jumps, are refused by name before training begins."""
    refused = partial(
        run_here,
        config("digits"),
        *TINY_DIT,
        *FLOW_MAP,
        f"--config.train.initial={dit_run.workdir}",
        "--config.train.steps=1",
        "--config.sample.guidance_scale=None",
        "--workdir=run",
        cwd=dit_run.workdir.parent,
    )
    for sampler in ("heun", "flow_map"):
        result = refused(f"--config.sample.sampler={sampler}")
        assert result.status != 0
        assert f"sample.sampler='{sampler}' asks for more than the flow's end at 0" in result.err
        assert "set sample.sampler=consistency" in result.err


WRONG = {
    "model.learned_variance=True": "model.learned_variance",
    "objective.uncertainty=True": "objective.uncertainty is for task='diffusion'",
    "flow_map.loss=else": "flow_map.loss='else'",
    "flow_map.scales=(3.0,1.0)": "must be two scales, (lowest, highest)",
    "flow_map.scales=(1.0,3.0)": "set flow_map.instants=0.25",
    "flow_map.derivative=half": "flow_map.derivative='half'",
    "flow_map.loss=shortcut --config.flow_map.instants=0.0": "a shortcut learns the data by its instants alone",
    "flow_map.loss=mean_flow --config.train.accumulate=16": "of 1 images (train.batch_size / train.accumulate)",
    "flow_map.loss=shortcut --config.train.accumulate=16": "leaves no jump",
}


@pytest.mark.parametrize("setting", WRONG)
def test_wrong_settings_are_one_line(tmp_path, setting):
    result = run_here(
        config("digits"),
        *TINY_DIT,
        *FLOW_MAP,
        *f"--config.{setting}".split(),
        "--config.train.steps=1",
        "--workdir=run",
        cwd=tmp_path,
    )
    assert result.status != 0
    assert WRONG[setting] in result.err
    assert len(result.err.strip().splitlines()) == 1, result.err
