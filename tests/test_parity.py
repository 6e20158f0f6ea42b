"""Our samplers against diffusers' schedulers, step by step: the same denoiser (a mixture of Gaussians), the same noise,
each of our steps restarted from the peer's state and history. In sigma coordinates, x = x_t / alpha_t, ours in float32
and on the peer's own sigmas: it multiplies its table up in float32, 8e-5 beside ours where sigma is least. A difference
is the largest |ours - theirs| of a step over the largest |theirs|; it must stay below 1e-5.

Where both agree (diffusers 0.42.1; the largest difference measured in any step):

    theirs                                              ours                          difference
    DDPMScheduler, fixed_small, every spacing, clipped  DDIM(eta=1)                   5e-7
    DDPMScheduler, fixed_large                          DDPM("large")                 3e-7
    DDPMScheduler, learned_range                        DDPM("learned")               3e-7
    DDIMScheduler, leading, eta 0 and 0.6, clipped      DDIM(eta)                     3e-7
    EulerDiscreteScheduler                              DDIM                          1e-7
    EulerAncestralDiscreteScheduler                     DDIM(eta=1)                   6e-7
    EDMEulerScheduler                                   DDIM                          2e-7
    HeunDiscreteScheduler                               Heun                          3e-7
    DPMSolverMultistepScheduler, order 2                DPMpp2M                       4e-7
    EDMDPMSolverMultistepScheduler, order 2             DPMpp2M                       1e-7
    DPMSolverMultistepScheduler, sde, order 2           DPMpp2MSDE                    4e-7
    DPMSolverSinglestepScheduler, order 2               DPMpp2SAncestral(eta=0)       3e-7
    UniPCMultistepScheduler, order 2 and 3, bh2         UniPC                         6e-7
    LMSDiscreteScheduler, from the second step on       LMS                           3e-7

Clipping is StaticThreshold's here, and use_clipped_model_output there. The single steps are on a ladder uniform in
ln sigma, where the rung that they go over is our middle.

Where theirs is another choice:

    LMS                          the first step is Euler's, ours Heun's (samplers/lms.py)
    DPM-Solver++, order 3        the first step is Euler's, ours the single step of second order (samplers/dpmpp_3m.py)
    UniPC, order 3               the last step but one is of second order (lower_order_final; without it the scheduler
                                 cannot end at 0, so the comparison above ends at its least sigma)

Where theirs is wrong, by the derivations at the tests; a test that fails because they mended it has done its work:

    DDIM's spacings              the step goes to t - T // n, whatever the next timestep is: wrong for linspace, and for
                                 trailing where n does not divide T
    DDIM's clipping              x0 is clipped and eps stays, so that a step of no length moves x; not with
                                 use_clipped_model_output
    DDPM's last noise            left out at t = 0 and not at the last step: fixed_large with trailing spacing answers
                                 with a noisy image
    DPM-Solver++, order 3        D'' lacks a factor 2: global order 2, ours 3
    SDE-DPM-Solver++, order 3    the same, and -1/2 where +1/2 is right: global order 1
"""

import inspect
import sys
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff import config
from jdiff.common.keys import folded, image_keys, normal
from jdiff.diffusion import brownian, ladders
from jdiff.diffusion.denoiser import Denoised
from jdiff.diffusion.guidance import StaticThreshold
from jdiff.diffusion.samplers import (
    DDIM,
    DDPM,
    LMS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2SAncestral,
    DPMpp3M,
    Heun,
    Sampler,
    UniPC,
)
from jdiff.diffusion.tables import DDPMTable, linear_betas
from jdiff.from_config.process import prediction
from jdiff.interop.schedulers import OF_EDM, OF_FLOWS, OF_TABLES, keys_of
from tests.closed_forms import gaussian, gaussian_flow, mixture

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

TABLE = DDPMTable(linear_betas(1000))
PROBLEM = mixture(2)
KEYS = image_keys(0, jnp.arange(4))
LIKE = jnp.zeros((4, 2))
RELATIVE = 1e-5

VP = {"trained_betas": list(TABLE.betas), "num_train_timesteps": 1000}
FREE = {**VP, "clip_sample": False}
CLIP = {**VP, "clip_sample": True, "clip_sample_range": 0.1}
LINSPACE, TRAILING = {"timestep_spacing": "linspace"}, {"timestep_spacing": "trailing"}
THIRD = {"solver_order": 3, "solver_type": "heun", "lower_order_final": False}
IN_SIGMAS = ("EDM", "Euler", "Heun", "LMS")  # these keep x itself, the others alpha x

clipped = StaticThreshold(-0.1, 0.1)(PROBLEM.denoise)


def learned(x, sigma, cond, to=None):
    """With a variance between the small and the large one."""
    return PROBLEM.denoise(x, sigma, cond).replace(variance=jnp.full_like(x, 0.3))


def half_clipped(x, sigma, cond, to=None):
    """D clipped, the step's direction not."""
    return Denoised(x0=clipped(x, sigma, cond).x0, x0_dir=PROBLEM.denoise(x, sigma, cond).x0)


@jax.jit
def step_noise(index, sigma, sigma_next):
    return normal(folded(KEYS, index), LIKE)


@jax.jit
def path_noise(index, sigma, sigma_next):
    return brownian.noise(KEYS, LIKE, sigma, sigma_next)


@dataclass(frozen=True)
class Case:
    """A scheduler of diffusers and the sampler of ours that ought to be it.

    calls: how many of its steps one of ours makes. given: more arguments for its step. denoise is the model of both;
    guided, where the scheduler changes the model's answer itself, is ours with that change.
    """

    scheduler: str
    config: dict
    sampler: Sampler
    steps: int = 8
    calls: int = 1
    noise: Any = step_noise
    given: dict = field(default_factory=dict)
    denoise: Any = PROBLEM.denoise
    guided: Any = None


@dataclass
class Step:
    """One of our steps as the peer made it. before, after: its x, in our coordinates. carry: what our sampler would
    remember, had it come here on the peer's way. x0s: the denoised images that the peer remembers, newest first.
    """

    index: int
    t: int
    sigma: float
    sigma_next: float
    before: np.ndarray
    after: np.ndarray
    carry: Any
    x0s: list[np.ndarray]


@cache
def compiled_denoise(denoise):
    return jax.jit(lambda x, sigma, to=None: denoise(x, sigma, {}, to))


@cache
def compiled_step(sampler, denoise):
    return jax.jit(partial(sampler.step, lambda x, sigma, to=None: denoise(x, sigma, {}, to)))


def made(name, steps, config):
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # it counts its steps and does not look its timesteps up
    return scheduler


def rungs(scheduler):
    """The sigma of the sample before each of the scheduler's steps, and after the last."""
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.numpy().astype(np.float64)
    return np.append(sigma_at(scheduler, scheduler.timesteps.numpy()), 0.0)


def sigma_at(scheduler, t):
    alphas_bar = scheduler.alphas_cumprod.numpy().astype(np.float64)[t]
    return np.sqrt((1 - alphas_bar) / alphas_bar)


def scale(scheduler, sigma):
    """alpha, by which our x becomes the scheduler's sample."""
    return 1.0 if type(scheduler).__name__.startswith(IN_SIGMAS) else 1 / np.sqrt(1 + sigma**2)


def model_output(scheduler, denoised, x, sigma):
    """The denoiser's answer as the scheduler takes it: eps, with a learned variance beside it, or EDM's F."""
    x0 = np.float64(denoised.x0)
    if type(scheduler).__name__.startswith("EDM"):
        data = scheduler.config.sigma_data
        total = sigma**2 + data**2
        answer = (x0 - data**2 / total * x) / (sigma * data / np.sqrt(total))
    else:
        answer = (x - x0) / sigma
    if denoised.variance is not None:
        answer = np.concatenate([answer, 2 * np.float64(denoised.variance) - 1], axis=1)
    return torch.tensor(np.float32(answer))


def carry_of(sampler, scheduler, x, sigmas, index):
    past = [jnp.float32(sigmas[index - back] if index >= back else np.inf) for back in range(1, 5)]
    x0s = [jnp.zeros_like(x) if m is None else jnp.asarray(m.numpy()) for m in remembered(scheduler, "model_outputs")]
    match sampler:
        case DPMpp2M():
            return x0s[0], past[0]
        case DPMpp2MSDE():
            return x0s[0], past[0], KEYS
        case DPMpp3M():
            return (x0s[0], past[0]), (x0s[1], past[1])
        case UniPC():
            last = scheduler.last_sample
            x_1 = x if last is None else jnp.float32(last.numpy() / scale(scheduler, sigmas[index - 1]))
            return x_1, jnp.stack(x0s), jnp.stack(past[: sampler.predictor_order])
        case LMS():
            directions = [jnp.asarray(d.numpy()) for d in remembered(scheduler, "derivatives")]
            directions = [*directions, *[jnp.zeros_like(x)] * sampler.order][: sampler.order]
            return jnp.stack(directions), jnp.stack(past[: sampler.order])
    return ()


def remembered(scheduler, name):
    """Newest first."""
    return list(reversed(getattr(scheduler, name, [])))


def walk(case, monkeypatch):
    """The scheduler's own walk, as steps of ours; its noise is ours."""
    scheduler = made(case.scheduler, case.steps, case.config)
    module = sys.modules[type(scheduler).__module__]
    sigmas = rungs(scheduler)

    def in_sigmas(sample, sigma):
        return sample.numpy().astype(np.float64) / scale(scheduler, sigma)

    start = np.float64(PROBLEM.draw(jax.random.key(0), 4, sigmas[0])) * scale(scheduler, sigmas[0])
    sample, steps = torch.tensor(np.float32(start)), []
    for first in range(0, len(scheduler.timesteps), case.calls):
        last = min(first + case.calls, len(scheduler.timesteps))
        sigma, sigma_next = sigmas[first], sigmas[last]
        noise = torch.tensor(np.array(case.noise(len(steps), np.float32(sigma), np.float32(sigma_next))))
        monkeypatch.setattr(module, "randn_tensor", lambda *_, noise=noise, **__: noise, raising=False)
        before = in_sigmas(sample, sigma)
        carry = carry_of(case.sampler, scheduler, jnp.float32(before), sigmas, first)
        for t, sigma_here in zip(scheduler.timesteps[first:last], sigmas[first:last], strict=True):
            x = in_sigmas(sample, sigma_here)
            denoised = compiled_denoise(case.denoise)(np.float32(x), np.float32(sigma_here))
            scheduler.scale_model_input(sample, t)  # some will not step without
            sample = scheduler.step(model_output(scheduler, denoised, x, sigma_here), t, sample, **case.given)[0]
        after = in_sigmas(sample, sigma_next)
        x0s = [m.numpy().astype(np.float64) for m in remembered(scheduler, "model_outputs") if m is not None]
        t = int(scheduler.timesteps[first])
        steps.append(Step(len(steps), t, sigma, sigma_next, before, after, carry, x0s))
    return steps


def ours(step, sampler, denoise=PROBLEM.denoise, sigma_next=None):
    """Where `sampler` leads from the peer's state."""
    end = jnp.float32(step.sigma_next if sigma_next is None else sigma_next)
    keys = folded(KEYS, step.index)
    x, _ = compiled_step(sampler, denoise)(step.carry, jnp.float32(step.before), jnp.float32(step.sigma), end, keys)
    assert x.dtype == jnp.float32
    return np.float64(x)


def apart(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


AGREE = {
    "DDPM, small": Case("DDPMScheduler", FREE, DDIM(eta=1.0)),
    "DDPM, small, linspace": Case("DDPMScheduler", {**FREE, **LINSPACE}, DDIM(eta=1.0)),
    "DDPM, small, trailing": Case("DDPMScheduler", {**FREE, **TRAILING}, DDIM(eta=1.0)),
    "DDPM, small, clipped": Case("DDPMScheduler", CLIP, DDIM(eta=1.0), guided=clipped),
    "DDPM, large": Case("DDPMScheduler", {**FREE, "variance_type": "fixed_large"}, DDPM(variance="large")),
    "DDPM, learned": Case(
        "DDPMScheduler", {**FREE, "variance_type": "learned_range"}, DDPM(variance="learned"), denoise=learned
    ),
    "DDIM": Case("DDIMScheduler", FREE, DDIM()),
    "DDIM, 30 of 1000": Case("DDIMScheduler", FREE, DDIM(), steps=30),
    "DDIM, eta 0.6": Case("DDIMScheduler", FREE, DDIM(eta=0.6), given={"eta": 0.6}),
    "DDIM, trailing": Case("DDIMScheduler", {**FREE, **TRAILING}, DDIM()),
    "DDIM, clipped": Case("DDIMScheduler", CLIP, DDIM(), guided=clipped, given={"use_clipped_model_output": True}),
    "Euler": Case("EulerDiscreteScheduler", VP, DDIM()),
    "Euler, ancestral": Case("EulerAncestralDiscreteScheduler", VP, DDIM(eta=1.0)),
    "Euler, EDM": Case("EDMEulerScheduler", {}, DDIM()),
    "Heun": Case("HeunDiscreteScheduler", VP, Heun(), calls=2),
    "DPM++ 2M": Case("DPMSolverMultistepScheduler", VP, DPMpp2M()),
    "DPM++ 2M, EDM": Case("EDMDPMSolverMultistepScheduler", {}, DPMpp2M()),
    "DPM++ 2M SDE": Case(
        "DPMSolverMultistepScheduler", {**VP, "algorithm_type": "sde-dpmsolver++"}, DPMpp2MSDE(), noise=path_noise
    ),
    "DPM++ 2S": Case(
        "DPMSolverSinglestepScheduler",
        {**VP, "use_exponential_sigmas": True, "lower_order_final": True},
        DPMpp2SAncestral(eta=0.0),
        steps=17,
        calls=2,
    ),
    "UniPC, order 2": Case("UniPCMultistepScheduler", VP, UniPC(predictor_order=2)),
    "UniPC, order 3": Case(
        "UniPCMultistepScheduler",
        {**VP, "solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
        UniPC(predictor_order=3),
    ),
}
LINEAR_MULTISTEP = Case("LMSDiscreteScheduler", VP, LMS())
THREE_STEP = {
    "VP": Case("DPMSolverMultistepScheduler", {**VP, **THIRD}, DPMpp3M(), steps=10),
    "EDM": Case("EDMDPMSolverMultistepScheduler", THIRD, DPMpp3M(), steps=10),
}
THREE_STEP_SDE = Case(
    "DPMSolverMultistepScheduler",
    {**VP, "algorithm_type": "sde-dpmsolver++", "solver_order": 3, "lower_order_final": False},
    DPMpp2MSDE(),
    noise=path_noise,
)


@pytest.mark.parametrize("name", AGREE)
def test_steps_are_the_peers(name, monkeypatch):
    case = AGREE[name]
    for step in walk(case, monkeypatch):
        assert apart(ours(step, case.sampler, case.guided or case.denoise), step.after) < RELATIVE, step.index


@pytest.mark.parametrize("name", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [8, 30])
def test_ladders_visit_the_peers_timesteps(name, steps):
    """The same timesteps, and sigmas as near as the peer's float32 allows."""
    scheduler = made("DDPMScheduler", steps, {**FREE, "timestep_spacing": name})
    ladder = getattr(ladders, name)(steps, TABLE)
    np.testing.assert_array_equal(np.searchsorted(TABLE.sigmas, ladder[:-1]), scheduler.timesteps)
    np.testing.assert_allclose(ladder, rungs(scheduler), rtol=1e-4)


def test_karras_rungs_are_the_peers():
    scheduler = made("EDMEulerScheduler", 18, {})
    np.testing.assert_allclose(ladders.karras(18, sigma_min=0.002, sigma_max=80.0), rungs(scheduler), rtol=1e-6)


def test_linear_multistep_differs_in_its_first_step_alone(monkeypatch):
    """Theirs is Euler's, ours Heun's."""
    first, *others = walk(LINEAR_MULTISTEP, monkeypatch)
    assert apart(ours(first, LMS()), first.after) > 10 * RELATIVE
    carried, first.carry = first.carry, ()
    assert apart(ours(first, DDIM()), first.after) < RELATIVE
    heuns, first.carry = ours(first, Heun()), carried
    assert apart(ours(first, LMS()), heuns) < RELATIVE
    for step in others:
        assert apart(ours(step, LMS()), step.after) < RELATIVE, step.index


def test_unipc_of_third_order_is_lowered_at_the_end_by_choice(monkeypatch):
    """By default (lower_order_final, 8 steps) their last step but one is of second order; all others are ours."""
    case = Case("UniPCMultistepScheduler", {**VP, "solver_order": 3}, UniPC(predictor_order=3))
    for step in walk(case, monkeypatch):
        assert (apart(ours(step, case.sampler), step.after) < RELATIVE) == (step.index != case.steps - 2), step.index


# --- DDIM's and DDPM's mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spacing", "steps"), [(LINSPACE, 8), (LINSPACE, 30), (TRAILING, 30)])
def test_diffusers_ddim_does_not_step_to_its_next_timestep(spacing, steps, monkeypatch):
    """It goes from t to t - T // n; the next step takes what it finds for x at the next timestep, whose sigma is
    another. Each step is right for where it goes, and only where both are the same for the walk.
    """
    case = Case("DDIMScheduler", {**FREE, **spacing}, DDIM(), steps=steps)
    scheduler, walked = made("DDIMScheduler", steps, case.config), walk(case, monkeypatch)
    missed = []
    for step, after in pairwise(walked):
        t_reached = step.t - 1000 // steps
        reached = sigma_at(scheduler, t_reached)
        x = step.after * scale(scheduler, step.sigma_next) / scale(scheduler, reached)
        assert apart(ours(step, DDIM(), sigma_next=reached), x) < RELATIVE, step.index
        if after.t == t_reached:
            assert apart(ours(step, DDIM()), step.after) < RELATIVE, step.index
        else:
            missed.append(apart(ours(step, DDIM()), step.after))
    assert len(missed) >= steps // 4
    assert max(missed) > 100 * RELATIVE


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_diffusers_ddim_does_not_converge_with_these_spacings(spacing):
    """600 of 1000 steps on a Gaussian, whose probability-flow ODE is known: each should take 5/3 of a timestep and
    takes T // n = 1, so noise is left that no later step knows of. With `leading` the ladder has steps of 1.
    """
    problem = gaussian(2)
    mean, variance = problem.means[0], problem.stds[0] ** 2
    scheduler = made("DDIMScheduler", 600, {**FREE, "timestep_spacing": spacing})
    sigmas = rungs(scheduler)
    noise = np.random.default_rng(0).normal(size=(64, 2))
    start = mean + np.sqrt(variance + sigmas[0] ** 2) * noise

    def eps(x, sigma):
        return sigma / (variance + sigma**2) * (x - mean)

    x, sample = start, torch.tensor(start * scale(scheduler, sigmas[0]))
    for t, sigma, sigma_next in zip(scheduler.timesteps, sigmas[:-1], sigmas[1:], strict=True):
        x = x + (sigma_next - sigma) * eps(x, sigma)
        answer = eps(sample.numpy() / scale(scheduler, sigma), sigma)
        sample = scheduler.step(torch.tensor(answer), t, sample).prev_sample
    exact = gaussian_flow(problem, start, sigmas[0], 0.0)
    right, theirs = np.abs(x - exact).max(), np.abs(sample.numpy() - exact).max()
    assert right < 0.02
    assert theirs > 20 * right if spacing != "leading" else theirs == pytest.approx(right, rel=1e-3)


def test_diffusers_ddim_clips_without_its_direction(monkeypatch):
    """x' = clip(D) + (s'/s) (x - D): x' -> x + clip(D) - D as s' -> s, where it must go to x. Of 1000 steps, in the
    middle, that jump is nearly all that happens; with the direction from clip(D) there is none.
    """
    case = Case("DDIMScheduler", CLIP, DDIM())
    walked = walk(case, monkeypatch)
    for step in walked:
        assert apart(ours(step, DDIM(), half_clipped), step.after) < RELATIVE, step.index
    assert max(apart(ours(step, DDIM(), clipped), step.after) for step in walked) > 1000 * RELATIVE

    x = np.random.default_rng(0).normal(size=(4, 2))
    moved, t = {}, 350
    for rederived in (False, True):
        scheduler = made("DDIMScheduler", 1000, CLIP)
        sigma, sigma_next = sigma_at(scheduler, t), sigma_at(scheduler, t - 1)
        denoised = compiled_denoise(PROBLEM.denoise)(np.float32(x), np.float32(sigma))
        sample = torch.tensor(np.float32(x * scale(scheduler, sigma)))
        output = model_output(scheduler, denoised, x, sigma)
        sample = scheduler.step(output, t, sample, use_clipped_model_output=rederived).prev_sample
        moved[rederived] = np.abs(sample.numpy() / scale(scheduler, sigma_next) - x).max()
    jump = np.abs(np.clip(denoised.x0, -0.1, 0.1) - denoised.x0).max()
    assert jump > 0.1
    assert moved[False] == pytest.approx(jump, rel=0.1)
    assert moved[True] < 0.1 * jump


def test_diffusers_ddpm_leaves_noise_in_the_image(monkeypatch):
    """No noise belongs to the last step (Ho et al., arXiv 2006.11239, algorithm 2), which is to x0 whatever t it starts
    from. They leave it out where t = 0; with trailing spacing the last of 8 steps starts at t = 124.
    """
    case = Case("DDPMScheduler", {**FREE, **TRAILING, "variance_type": "fixed_large"}, DDPM(variance="large"))
    *others, last = walk(case, monkeypatch)
    for step in others:
        assert apart(ours(step, case.sampler), step.after) < RELATIVE, step.index
    assert last.t == 124
    noise = np.sqrt(last.sigma**2 / (1 + last.sigma**2)) * np.float64(step_noise(last.index, last.sigma, 0.0))
    assert apart(ours(last, case.sampler) + noise, last.after) < RELATIVE
    assert np.abs(noise).max() > 0.2


# --- The third order --------------------------------------------------------------------------------------------------


def third_order(x, x0s, sigmas, sigma_next, *, eta=0, factor=2, half=0.5):
    """The exact step, in the mean, where D is a parabola of lambda = -ln sigma through the last three rungs.

    dx = -(1 + eta) (x - D) dlambda + noise, so with k = 1 + eta (1: the ODE, 2: the reverse SDE)

        x' = e^-kh x + int_0^h k e^-k(h-t) D(lambda + t) dt,    D(lambda + t) = D + D' t + D'' t^2 / 2

    and the integrals of 1, t, t^2/2 are, by parts,

        c_0 = 1 - e^-kh,    c_1 = h - c_0 / k,    c_2 = h^2/2 - c_1 / k = h^2 ((c_0 - kh) / (kh)^2 + 1/2)

    Newton's interpolation has D'' = 2 D[0, 1, 2], twice the divided difference. diffusers has `factor` 1, and for the
    SDE `half` -1/2, with which c_2 is near -h^2 where it should be near k h^3 / 6.
    """
    k, h = 1 + eta, np.log(sigmas[0] / sigma_next)
    h_1, h_2 = np.log(sigmas[1] / sigmas[0]), np.log(sigmas[2] / sigmas[1])
    slope, slope_1 = (x0s[0] - x0s[1]) / h_1, (x0s[1] - x0s[2]) / h_2
    divided = (slope - slope_1) / (h_1 + h_2)
    c_0 = -np.expm1(-k * h)
    c_1 = h - c_0 / k
    c_2 = h**2 * ((c_0 - k * h) / (k * h) ** 2 + half)
    return np.exp(-k * h) * x + c_0 * x0s[0] + c_1 * (slope + h_1 * divided) + c_2 * factor * divided


RIGHT = {"factor": 2, "half": 0.5}
THEIRS = {"factor": 1, "half": 0.5}
THEIRS_SDE = {"factor": 1, "half": -0.5}


def of_three_rungs(walked):
    """(step, its sigma and the two before), for the steps that have them and do not end at 0."""
    for first, second, step in zip(walked, walked[1:-1], walked[2:-1], strict=False):
        yield step, [step.sigma, second.sigma, first.sigma]


@pytest.mark.parametrize("name", THREE_STEP)
def test_diffusers_third_order_lacks_a_factor(name, monkeypatch):
    """Ours is the formula above, theirs it without the factor 2; the steps that have no third rung agree, but for the
    first. diffusers' own singlestep_dpm_solver_third_order_update has the 2.
    """
    walked = walk(THREE_STEP[name], monkeypatch)
    for step, sigmas in of_three_rungs(walked):
        right, theirs = (third_order(step.before, step.x0s, sigmas, step.sigma_next, **f) for f in (RIGHT, THEIRS))
        assert apart(ours(step, DPMpp3M()), right) < RELATIVE, step.index
        assert apart(step.after, theirs) < RELATIVE, step.index
    assert max(apart(ours(step, DPMpp3M()), step.after) for step in walked[2:-1]) > 100 * RELATIVE
    for step in (walked[1], walked[-1]):
        assert apart(ours(step, DPMpp3M()), step.after) < RELATIVE, step.index


def test_diffusers_third_order_sde_has_a_sign_wrong_too(monkeypatch):
    """They are ours of second order until the third rung, and at the end; in between they are the formula above with
    both mistakes, and with our noise.
    """
    walked = walk(THREE_STEP_SDE, monkeypatch)
    for step in (*walked[:2], walked[-1]):
        assert apart(ours(step, DPMpp2MSDE()), step.after) < RELATIVE, step.index
    for step, sigmas in of_three_rungs(walked):
        sigma, sigma_next = np.float32(step.sigma), np.float32(step.sigma_next)
        added = sigma_next * np.sqrt(1 - (sigma_next / sigma) ** 2) * path_noise(step.index, sigma, sigma_next)
        theirs = third_order(step.before, step.x0s, sigmas, step.sigma_next, eta=1, **THEIRS_SDE)
        assert apart(step.after, theirs + np.float64(added)) < RELATIVE, step.index


@pytest.mark.parametrize("eta", [0, 1])
def test_the_right_third_order_is_exact_for_a_parabola(eta):
    """By quadrature, in float64."""
    sigmas, sigma_next = [1.0, 1.6, 2.1], 0.7
    a, b, c, x = np.random.default_rng(0).normal(size=(4, 4, 2))

    def parabola(lam):
        return a + b * lam + c * lam**2

    k, h = 1 + eta, np.log(sigmas[0] / sigma_next)
    points, shares = np.polynomial.legendre.leggauss(20)
    times = h / 2 * (1 + points)
    weights = h / 2 * shares * k * np.exp(-k * (h - times))
    integral = sum(w * parabola(-np.log(sigmas[0]) + t) for t, w in zip(times, weights, strict=True))
    exact = np.exp(-k * h) * x + integral
    x0s = [parabola(-np.log(s)) for s in sigmas]
    assert apart(third_order(x, x0s, sigmas, sigma_next, eta=eta, **RIGHT), exact) < 1e-14
    assert apart(third_order(x, x0s, sigmas, sigma_next, eta=eta, **(THEIRS_SDE if eta else THEIRS)), exact) > 1e-3


def gaussian_problem():
    """(D(x, sigma), the ODE's exact way (x, sigma, sigma_next) -> x')."""
    problem = gaussian(2)
    mean, variance = problem.means[0], problem.stds[0] ** 2
    return lambda x, s: mean + variance / (variance + s**2) * (x - mean), partial(gaussian_flow, problem)


def wave_problem():
    """D = sin(lambda), and the mean of the reverse SDE: dx/dlambda = -2 (x - sin(lambda)). (A Gaussian's D is constant
    along it, and every coefficient of D'' would do.)
    """

    def forced(sigma):
        return (4 * np.sin(-np.log(sigma)) - 2 * np.cos(-np.log(sigma))) / 5

    return (
        lambda x, s: np.full_like(x, np.sin(-np.log(s))),
        lambda x, s, s_next: forced(s_next) + (x - forced(s)) * (s_next / s) ** 2,
    )


@pytest.mark.parametrize(
    ("eta", "problem", "mistakes", "order"),
    [
        (0, gaussian_problem(), RIGHT, 3),
        (0, gaussian_problem(), THEIRS, 2),
        (1, wave_problem(), RIGHT, 3),
        (1, wave_problem(), THEIRS, 2),
        (1, wave_problem(), THEIRS_SDE, 1),
    ],
)
def test_the_mistakes_cost_orders(eta, problem, mistakes, order):
    """Global error from 5 to 0.1 in float64, started with three exact rungs: what is measured is the formula alone."""
    denoise, flow = problem
    start = 5.0 * np.random.default_rng(0).normal(size=(64, 2))
    counts, errors = (80, 160, 320, 640), []
    for count in counts:
        sigmas = ladders.karras(count + 1, sigma_min=0.1, sigma_max=5.0)[:-1]
        xs = [flow(start, sigmas[0], sigma) for sigma in sigmas[:3]]
        x0s = [denoise(x, sigma) for x, sigma in zip(xs, sigmas[:3], strict=True)]
        x = xs[-1]
        for i in range(2, count):
            x = third_order(x, x0s[::-1], sigmas[i - 2 : i + 1][::-1], sigmas[i + 1], eta=eta, **mistakes)
            x0s = [*x0s[1:], denoise(x, sigmas[i + 1])]
        errors.append(np.sqrt(np.mean((x - flow(start, sigmas[0], sigmas[-1])) ** 2)))
    assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)


# What a scheduler says of the process that a model was trained under (interop/schedulers.py)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
        {"beta_schedule": "sigmoid"},
        {"num_train_timesteps": 400, "beta_start": 0.001, "beta_end": 0.03},
        {"num_train_timesteps": 250, "beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "beta_schedule": "scaled_linear"},
    ],
)
def test_a_table_read_from_a_scheduler_is_the_schedulers(settings):
    theirs = diffusers.DDPMScheduler(**settings)
    keys = keys_of({"_class_name": "DDPMScheduler", **theirs.config})
    ours = config.defaults()
    ours.model.update(keys)
    sigmas = prediction(ours).schedule.sigmas
    alphas_bar = theirs.alphas_cumprod.numpy().astype(np.float64)
    np.testing.assert_allclose(1 / (1 + sigmas[:-1] ** 2), alphas_bar[:-1], rtol=1e-4)
    assert keys["prediction"] == {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[theirs.config.prediction_type]
    config.check_values(ours)


@pytest.mark.parametrize("name", [*OF_TABLES, *OF_FLOWS, *OF_EDM])
def test_settings_that_a_file_leaves_out_are_the_classes_own(name):
    made = getattr(diffusers, name, None)
    if made is None or "num_train_timesteps" not in inspect.signature(made.__init__).parameters:
        pytest.skip("diffusers makes it with another library")
    assert keys_of({"_class_name": name}) == keys_of({"_class_name": name, **made().config})
