"""What users do with a trained model, on the model object: mostly on a tiny one, whose images need not be good."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdiff
import jdiff.config
from benchmarks.kinds import flags
from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.data.sources.digits import Digits
from jdiff.diffusion.guidance import ClassifierFree
from jdiff.resolve import resolve
from tests.conftest import REPOSITORY, SMALL_DIT, TINY, Run, config, refusal, run_command, run_here
from tests.short_training import falls, losses

SAMPLERS = [
    "ddpm",
    "ddim",
    "euler",
    "euler_ancestral",
    "heun",
    "dpm2",
    "dpmpp_2s_ancestral",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2m_sde",
    "dpmpp_sde",
    "lms",
    "unipc",
    "langevin",
    "predictor_corrector",
    "ode",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A tiny model, trained until labels and noise matter."""
    folder = tmp_path_factory.mktemp("model")
    long = ["--config.train.steps=200", "--config.train.warmup_images=0", "--config.train.ema_halflife_images=500"]
    result = run_here(config("digits"), *TINY, *long, "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return folder / "run"


@pytest.fixture(scope="module")
def model(run) -> jdiff.Model:
    return jdiff.load(run)


@pytest.fixture(scope="module")
def table_model(tmp_path_factory) -> jdiff.Model:
    """A tiny model with a table and a learned variance."""
    folder = tmp_path_factory.mktemp("table")
    table = ["--config.model.schedule=linear", "--config.model.schedule_steps=50", "--config.model.prediction=v"]
    learned = ["--config.model.learned_variance=true", "--config.objective.draw=steps"]
    long = ["--config.train.steps=100", "--config.train.warmup_images=0", "--config.train.ema_halflife_images=500"]
    result = run_here(config("digits"), *TINY, *table, *learned, *long, "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return jdiff.load(folder / "run")


@pytest.fixture(scope="module")
def digits(model) -> np.ndarray:
    """Twelve real digits, uint8."""
    from sklearn.datasets import load_digits

    return np.uint8(load_digits().images[:12, :, :, None] / 16 * 255)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_name_samples(model, sampler):
    images = model.sample(4, sampler=sampler, steps=3)
    assert images.shape == (4, 8, 8, 1)
    assert images.dtype == np.uint8
    calls, passes = model.nfe(sampler=sampler, steps=3)
    assert passes == 2 * calls > 0  # the config guides


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "hune"}, "did you mean 'heun'?; it is one of ddpm, ddim, euler"),
        ({"ladder": "karas"}, "did you mean 'karras'?"),
        ({"method": "cfgpp"}, "it is one of classifier_free, cfg_plus_plus, autoguidance, classifier"),
        ({"threshold": "some"}, "it is one of none, static, dynamic"),
        ({"variance": "middle", "sampler": "ddpm"}, "it is one of small, large, learned"),
        ({"variance": "learned", "sampler": "ddpm"}, "this model learned none"),
        ({"method": "autoguidance"}, "set guidance.weak_workdir"),
        ({"method": "classifier"}, "set guidance.classifier_workdir"),
        ({"method": "cfg_plus_plus", "sampler": "heun", "guidance_scale": 0.5}, "goes with the samplers ddpm, ddim"),
        ({"method": "cfg_plus_plus", "sampler": "ddim", "guidance_scale": 3.0}, "must lie in [0, 1]"),
        ({"sigma_max": 100.0}, "above this model's sigmas (0.002 to 80)"),
        ({"ladder": "by_hand", "sigmas": (90.0, 1.0)}, "above this model's sigmas"),
        ({"ladder": "by_hand", "sigmas": (1.0, 2.0)}, "must be numbers that fall"),
        ({"ladder": "quadratic"}, "this model has none; use karras"),
        ({"order": 7, "sampler": "unipc"}, "sample.order=7 must lie in [1, 4]"),
        ({"langevin_step": -1.0, "sampler": "langevin"}, "sample.langevin_step=-1.0 must lie in (0, 1]"),
        ({"rescale": 2.0}, "guidance.rescale=2.0 must lie in [0, 1]"),
        ({"stepz": 4}, "unknown setting 'stepz'; did you mean 'steps'?"),
        ({"labels": [3.7]}, "labels must hold whole numbers"),
        ({"noise": np.zeros((2, 4, 4, 1))}, "noise is [2, 4, 4, 1]; for these images it must be [2, 8, 8, 1]"),
        ({"guidance_scale": float("nan")}, "must be a finite number"),
        ({"guidance_scale": [1.0, 2.0, 3.0]}, "guidance_scale holds 3 numbers for 2 images"),
        ({"sigma_low": 5.0, "sigma_high": 1.0}, "must be below guidance.sigma_high"),
        ({"ladder": "by_hand", "sigmas": (1.0, 1.0 - 1e-9)}, "do not all fall in float32"),
        ({"rtol": 1e-9}, "sample.rtol=1e-09 must lie in [1e-6, 1]"),
        ({"labels": (11,)}, "labels are 0..9"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(model, settings, said):
    with pytest.raises(UserError) as error:
        model.sample(2, **settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_lines_come_from_the_command(run):
    arguments = ["--config.sample.sampler=ddpm", "--config.sample.variance=learned"]
    assert "this model learned none" in refusal("--mode=sample", f"--workdir={run}", *arguments, cwd=run)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--config.model.schedule=flow", "--config.model.prediction=eps"], "predict v, x0 or edm"),
        (["--config.model.learned_variance=true"], "model.learned_variance needs a table"),
        (["--config.model.zero_terminal_snr=true"], "model.zero_terminal_snr needs a table"),
        (["--config.model.sigma_min=90.0"], "must rise from above 0"),
        (["--config.objective.draw=stepz"], "did you mean 'steps'?"),
        (["--config.objective.weight=min_snrr"], "it is one of simple, edm, min_snr"),
        (["--config.objective.loss=l3"], "it is one of l2, l1, huber"),
    ],
)
def test_impossible_trainings_are_told(overrides, said):
    settings = jdiff.config.override(jdiff.config.load(REPOSITORY / "configs" / "digits.py"), overrides)
    with pytest.raises(UserError) as error:
        from_config.task(resolve(settings, Digits("train")))
    assert said in str(error.value)


@pytest.mark.slow  # test_samplers has the arithmetic, and one of the trainings above the loss
def test_a_learned_variance_serves_ddpm(table_model):
    learned = table_model.sample(4, sampler="ddpm", steps=10, variance="learned")
    small = table_model.sample(4, sampler="ddpm", steps=10, variance="small")
    assert (learned != small).any()


def test_noise_of_one_s_own_and_the_seeds_are_the_same(model):
    by_seed = model.sample(3, seed=5, sampler="ddim")
    np.testing.assert_array_equal(model.sample(noise=model.noise(range(3), seed=5), sampler="ddim"), by_seed)


@pytest.mark.parametrize("which", ["model", pytest.param("table_model", marks=pytest.mark.slow)])
def test_encoding_and_back_returns_the_images(which, digits, request):
    model = request.getfixturevalue(which)
    again = model.reconstruct(digits, labels=range(10), guidance_scale=1.0)
    assert again.shape == digits.shape
    ladder_end = model.task.parameterization.schedule.sigma_min
    # The last step answers with the denoised image, which for a model hardly trained is a little off.
    assert np.abs(again.astype(int) - digits).max() <= 3 + 2 * 127.5 * ladder_end
    noise = model.invert(digits, labels=range(10), guidance_scale=1.0)
    assert 0.7 < noise.std() < 1.5
    with pytest.raises(UserError, match="adds noise"):
        model.invert(digits, sampler="euler_ancestral")
    with pytest.raises(UserError, match="take at least 2"):
        model.invert(digits, sampler="ddim", steps=1)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"])
def test_what_is_watched_are_the_frames_of_the_trajectory(model, sampler):
    settings = {"sampler": sampler, "steps": 4, "labels": (1, 2, 3), "guidance_scale": 2.0, "seed": 5}
    frames = np.stack(list(model.watch(3, **settings)))
    assert frames.shape == (4, 3, 8, 8, 1)
    rungs = model.trajectory(3, **settings)[1:]
    assert np.abs(frames.astype(int) - rungs.astype(int)).max() <= 1  # two programs round differently
    assert np.abs(frames[-1].astype(int) - model.sample(3, **settings).astype(int)).max() <= 1


def test_watching_more_steps_compiles_nothing(model):
    drawn = partial(model.watch, 2, sampler="dpmpp_2m")
    list(drawn(steps=3, labels=(1,)))
    programs = model._compiled.step._cache_size()
    assert len(list(drawn(steps=7, labels=(4,), seed=8))) == 7
    assert model._compiled.step._cache_size() == programs


def test_interpolation_begins_and_ends_where_it_says(model, digits):
    frames = model.interpolate(3, 8, frames=5, label=4, sampler="ddim")
    assert frames.shape == (5, 8, 8, 1)
    ends = model.sample(noise=model.noise([3, 8]), labels=[4], sampler="ddim")
    assert np.abs(frames[[0, -1]].astype(int) - ends).max() <= 1
    between = model.interpolate(digits[0], digits[1], frames=3, label=0, guidance_scale=1.0, sampler="heun", steps=40)
    assert np.abs(between[0].astype(int) - digits[0]).max() <= 4
    assert np.abs(between[-1].astype(int) - digits[1]).max() <= 4


def test_img2img_keeps_less_the_more_noise(model, digits):
    kept = [
        np.abs(model.img2img(digits, sigma=sigma, sampler="ddim", guidance_scale=1.0).astype(float) - digits).mean()
        for sigma in (0.003, 0.5, 80.0)
    ]
    assert kept[0] < 2
    assert kept[0] < kept[1] < kept[2]
    with pytest.raises(UserError, match="must lie above 0"):
        model.img2img(digits, sigma=0.0)
    with pytest.raises(UserError, match="give uint8, or floats"):
        model.img2img(digits.astype(float), sigma=1.0)
    with pytest.raises(UserError, match=r"this model's are \[n, 8, 8, 1\]"):
        model.img2img(digits[:, :4], sigma=1.0)


def test_inpainting_keeps_what_is_not_masked(model, digits):
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    painted = model.inpaint(digits, mask, repeats=2)
    np.testing.assert_array_equal(painted[:, :, :4], digits[:, :, :4])
    assert (painted[:, :, 4:] != digits[:, :, 4:]).any()
    each = np.broadcast_to(mask, (len(digits), 8, 8))
    np.testing.assert_array_equal(model.inpaint(digits, each, repeats=2), painted)
    with pytest.raises(UserError, match="they must be bool"):
        model.inpaint(digits, np.ones((12, 8, 8)))
    with pytest.raises(UserError, match="inpainting takes ddpm, ddim"):
        model.inpaint(digits, mask, sampler="dpmpp_2m")


@pytest.mark.parametrize("which", ["model", pytest.param("table_model", marks=pytest.mark.slow)])
def test_bits_per_dim(which, digits, request):
    """A real digit needs fewer bits than noise does; the estimates of one number are near one another."""
    model = request.getfixturevalue(which)
    noise = np.random.default_rng(0).integers(0, 256, digits.shape).astype(np.uint8)
    coarse = {"rtol": 1e-2, "atol": 1e-2}
    real = model.bits_per_dim(digits, labels=range(10), **coarse)
    assert real.shape == (12,)
    assert real.mean() < model.bits_per_dim(noise, **coarse).mean()
    exact = model.bits_per_dim(digits, labels=range(10), exact=True, **coarse)
    assert real.mean() == pytest.approx(exact.mean(), abs=0.5)
    steps = {} if which == "table_model" else {"steps": 50}  # a table's own are as many
    bound = model.bits_per_dim(digits, labels=range(10), method="bound", **steps)
    assert np.isfinite(bound).all()
    with pytest.raises(UserError, match="it is one of ode, bound"):
        model.bits_per_dim(digits, method="exact")


@pytest.mark.slow  # samples by themselves depend on their noise alone in test_samplers
def test_one_noise_in_several_numbers_of_steps(model, run, tmp_path):
    compared = model.compare_steps((2, 4), 5)
    assert compared.shape == (2, 5, 8, 8, 1)
    np.testing.assert_array_equal(compared[1], model.sample(5, steps=4))
    out = ["--config.sample.compare_steps=(2,3,4)", f"--out={tmp_path / 'out'}"]
    result = run_here("--mode=sample", f"--workdir={run}", *out, cwd=tmp_path)
    assert result.status == 0, result.err
    assert (tmp_path / "out" / "steps.png").is_file()


def test_the_forward_process(model, digits):
    frames = model.forward(digits, frames=6, steps=10)
    assert frames.shape == (6, *digits.shape)
    np.testing.assert_array_equal(frames[0], digits)
    off = np.abs(frames.astype(float) - digits).mean(axis=(1, 2, 3, 4))
    assert (np.diff(off) > 0).all()


def test_scales_zero_and_one_through_a_network(model):
    """Within 1e-5: the network sees a batch of another size, which rounds otherwise."""
    denoise = model.task.denoiser(model.weights)
    x = 2 * jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    cond, dropped = {"label": jnp.arange(5)}, {"label": jnp.arange(5), "drop": {"label": jnp.ones(5, bool)}}
    answers = jax.jit(
        lambda x: (
            [ClassifierFree(jnp.float32(scale))(denoise)(x, jnp.float32(2), cond).x0 for scale in (1.0, 0.0, 2.0)]
            + [denoise(x, jnp.float32(2), which).x0 for which in (cond, dropped)]
        )
    )
    one, zero, two, conditional, unconditional = answers(x)
    np.testing.assert_allclose(one, conditional, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(zero, unconditional, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(two, 2 * conditional - unconditional, rtol=1e-4, atol=1e-4)
    assert np.abs(conditional - unconditional).max() > 1e-3


def test_guidance_through_the_model(model, run, tmp_path):
    """Scale 1 is the conditional model and 0 the unconditional one, whatever the guidance's kind allows."""
    plain = model.sample(6, sampler="ddim", guidance_scale=1.0).astype(int)
    nearly = model.sample(6, sampler="ddim", guidance_scale=[1.0, 1.0, 1.0, 1.0, 1.0, 2.0]).astype(int)
    assert np.abs(nearly[:5] - plain[:5]).max() <= 1
    assert (model.sample(6, sampler="ddim", guidance_scale=5.0) != plain).any()

    weak = {"method": "autoguidance", "weak_workdir": str(run)}  # the same model: nothing to guide away from
    assert np.abs(model.sample(6, sampler="ddim", guidance_scale=3.0, **weak).astype(int) - plain).max() <= 1
    outside = {"sigma_low": 70.0, "sigma_high": 71.0}  # no rung lies there
    assert np.abs(model.sample(6, sampler="ddim", guidance_scale=3.0, **outside).astype(int) - plain).max() <= 1
    for other in ({"rescale": 0.7}, {"threshold": "dynamic"}, {"threshold": "static"}):
        assert model.sample(6, sampler="ddim", guidance_scale=3.0, **other).shape == (6, 8, 8, 1)

    classifier = ["--config.train.steps=20", "--workdir=reader"]
    assert run_here(config("digits_classifier"), *TINY, *classifier, cwd=tmp_path).status == 0
    by_reader = {"method": "classifier", "classifier_workdir": str(tmp_path / "reader")}
    np.testing.assert_array_equal(model.sample(6, sampler="ddim", guidance_scale=0.0, **by_reader), plain)
    assert (model.sample(6, sampler="ddim", guidance_scale=20.0, **by_reader) != plain).any()
    each = model.sample(6, sampler="ddim", guidance_scale=[0.0, 1.0, 1.0, 1.0, 1.0, 20.0], **by_reader)
    assert (each[5] != plain[5]).any()
    for helper in (
        {"method": "classifier", "classifier_workdir": str(run)},
        {**weak, "weak_workdir": str(tmp_path / "reader")},
    ):
        with pytest.raises(UserError, match="which is not what it takes"):
            model.sample(6, sampler="ddim", guidance_scale=2.0, **helper)


def test_guidance_numbers_and_seeds_compile_nothing_new(model):
    guided = {"sampler": "ddim", "rescale": 0.5, "sigma_low": 0.1, "threshold": "dynamic"}
    model.sample(4, guidance_scale=2.0, **guided)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    changed = {"rescale": 0.2, "sigma_low": 0.3, "sigma_high": 5.0, "quantile": 0.9, "seed": 8, "sigma_max": 40.0}
    model.sample(4, guidance_scale=3.0, **{**guided, **changed})
    assert compiled == []


# Ten ways to say what the network predicts and where training looks.
TRAININGS = {
    **{
        f"{prediction}, {table}": {"model.schedule": table, "model.prediction": prediction, "objective.draw": "steps"}
        for table in ("linear", "cosine")
        for prediction in ("eps", "x0", "v")
    },
    "edm, lognormal": {},
    "edm, log-uniform": {"objective.draw": "log_uniform"},
    "flow, uniform": {"model.schedule": "flow", "model.prediction": "flow", "objective.draw": "uniform"},
    "flow, logit-normal": {
        "model.schedule": "flow",
        "model.prediction": "flow",
        "objective.draw": "logit_normal",
        "objective.mean": 0.0,
    },
}
# What else changes the loss.
VARIANTS = {
    "learned variance": {**TRAININGS["eps, cosine"], "model.learned_variance": True},
    "learned uncertainty, stratified": {"objective.uncertainty": True, "objective.stratified": True},
    "min-SNR, zero terminal SNR, huber": {
        **TRAININGS["v, linear"],
        "model.zero_terminal_snr": True,
        "objective.weight": "min_snr",
        "objective.loss": "huber",
    },
}


# One of each prediction; slowly, every one is trained to the end.
QUICK = ["eps, linear", "x0, cosine", "flow, logit-normal"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, *VARIANTS])
def test_sixty_steps_of_each_lower_the_loss(name, tmp_path):
    """By a network that compiles in no time: what is predicted does not depend on it."""
    assert falls(losses({**SMALL_DIT, **{**TRAININGS, **VARIANTS}[name]}, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_each_trained_to_the_end_draws_digits(name, tmp_path):
    from benchmarks.digits import distance, pixels, read_right

    settings = {**TRAININGS[name], "train.sample_every": 0, "train.trajectory_every": 0}
    result = run_command(
        config("digits"), *flags(settings), "--workdir=run", cwd=tmp_path, compile_well=True, timeout=1200
    )
    assert result.status == 0, result.err
    images = pixels(jdiff.load(tmp_path / "run").sample(1000, guidance_scale=1.0))
    accuracy, frechet = read_right(images, np.arange(1000) % 10), distance(images)
    print(f"| {name} | {accuracy:.1%} | {frechet:.2f} |")
    assert accuracy >= 0.90
    assert frechet <= 0.90


@pytest.mark.slow
def test_every_sampler_draws_digits_with_the_main_jobs_model(digits_run: Run):
    from benchmarks.samplers import CASES, measure

    trained = jdiff.load(digits_run.workdir)
    distances = {}
    for sampler, settings in CASES:
        nfe, accuracy, frechet, _ = measure(trained, sampler, settings)
        print(f"{sampler} {settings}: NFE {nfe}, {accuracy:.1%}, {frechet:.2f}")
        most = {"ddpm": 250, "langevin": 250, "predictor_corrector": 250, "ode": 100}.get(sampler, 50)
        assert nfe <= most
        assert accuracy >= 0.90
        assert frechet <= 0.90
        distances[sampler, nfe] = frechet
    assert distances["dpmpp_2m", 10] <= 1.2 * distances["heun", 35]
