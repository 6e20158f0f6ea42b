"""Names in a config -> objects: the one place that knows names.

A later sampler, network, source or task is a file of its own and a line here.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from ml_collections import ConfigDict
from tqdm import tqdm

from jdiff.common.errors import UserError
from jdiff.config import check_sample, known_as, one_of
from jdiff.data.sources import Source
from jdiff.data.sources.digits import Digits
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.tfds import SplitMissingError, Tfds
from jdiff.data.transforms import CHANNEL_CHANGES, ImageView
from jdiff.diffusion import draws, guidance, ladders, parameterization, samplers, schedules, tables, weights
from jdiff.diffusion.denoiser import Denoise
from jdiff.diffusion.objective import Objective
from jdiff.networks.classifier import Classifier
from jdiff.networks.uncertainty import Uncertainty
from jdiff.networks.unet import UNet, check_sides
from jdiff.tasks import Task
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.ema import Ema
from jdiff.training.optimizer import make_optimizer

Made = TypeVar("Made")

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def pick(name: str, value: str, family: Mapping[str, Made]) -> Made:
    """The member of `family` that the config key `name` asks for."""
    return family[one_of(name, value, list(family))]


# Data


def sources(config: ConfigDict) -> tuple[Source, Source | None]:
    """(training images, held-out images or None)."""
    data = config.data
    family, _, name = data.name.partition(":")

    def folder(split: str) -> Source:
        bar = partial(tqdm, desc=f"checking {split} images", leave=False, disable=None if config.log.progress else True)
        on_bad_file = one_of("data.on_bad_file", data.on_bad_file, ("error", "skip"))
        return Folder(
            data.dir,
            split,
            channels=one_of_channels(data.channels or 3),
            holdout=data.holdout,
            on_bad_file=on_bad_file,  # type: ignore[arg-type]
            progress=lambda files, total: bar(files, total=total),
        )

    families: dict[str, Callable[[str], Source]] = {
        "digits": Digits,
        "folder": folder,
        "tfds": lambda split: Tfds(name, split, data.dir),
    }
    make = pick("data.name", family, families)
    if family == "tfds" and not name:
        raise UserError("data.name='tfds:' lacks the name of a data set, as in tfds:cifar10")
    train = make("train")
    try:
        test = make("test")
    except SplitMissingError:
        return train, None
    return train, test if len(test) else None


def one_of_channels(channels: int) -> int:
    if channels not in (1, 3, 4):
        raise UserError(f"data.channels={channels} must be 1 (grey), 3 (colour) or 4 (with transparency)")
    return channels


def resolve(config: ConfigDict, source: Source) -> ConfigDict:
    """The config with what the data decide filled in: shape, classes, and the conditions that there are."""
    config = config.copy_and_resolve_references()
    height, width, channels = source.shape
    if config.data.image_size:
        height = width = config.data.image_size
    if height is None or width is None:
        raise UserError("these images have many sizes: give one with --config.data.image_size=64")
    wanted = config.data.channels or channels
    if wanted != channels and (channels, wanted) not in CHANNEL_CHANGES:
        raise UserError(f"data.channels={wanted}: {config.data.name} has images of {channels} channels; leave it at 0")
    config.data.shape = (height, width, wanted)
    config.data.class_names = source.class_names
    if not source.class_names:
        config.model.conditions = tuple(name for name in config.model.conditions if name != "label")
    if not config.model.conditions and config.guidance.method in ("classifier_free", "cfg_plus_plus"):
        config.sample.guidance_scale = None
    return config


def view(config: ConfigDict, *, train: bool) -> ImageView:
    """What makes an example of a record; held-out images are not flipped."""
    return ImageView(shape=config.data.shape, flip=config.data.flip and train, labelled=bool(config.data.class_names))


def example(config: ConfigDict, rows: int = 1) -> Any:
    """A batch of zeros of the form that a resolved config's data have."""
    return jax.tree.map(jnp.asarray, view(config, train=False).example(rows))


# Models


def schedule(config: ConfigDict) -> schedules.Schedule:
    model, steps = config.model, config.model.schedule_steps
    ends = {name: model[name] for name in ("sigma_min", "sigma_max") if model[name] is not None}
    betas = {"beta_start": model.beta_start, "beta_end": model.beta_end}
    processes: dict[str, Callable[[], schedules.Schedule]] = {
        "edm": lambda: schedules.EDM(**ends),
        "ve": lambda: schedules.VE(**ends),
        "vp": lambda: schedules.VP(beta_min=1000 * model.beta_start, beta_max=1000 * model.beta_end),
        "cosine_continuous": schedules.Cosine,
        "flow": lambda: schedules.Flow(shift=model.flow_shift),
    }
    in_steps: dict[str, Callable[[], tuple[float, ...]]] = {
        "linear": lambda: tables.linear_betas(steps, **betas),
        "scaled_linear": lambda: tables.scaled_linear_betas(steps, **betas),
        "sigmoid": lambda: tables.sigmoid_betas(steps, **betas),
        "cosine": lambda: tables.cosine_betas(steps),
        "sigmoid_alpha_bar": lambda: tables.sigmoid_alpha_bar_betas(steps),
    }
    name = one_of("model.schedule", model.schedule, [*processes, *in_steps])
    if name not in in_steps:
        if model.zero_terminal_snr:
            raise UserError(
                f"model.zero_terminal_snr needs a table ({', '.join(in_steps)}), not model.schedule={name!r}"
            )
        made = processes[name]()
        if not 0 < made.sigma_min < made.sigma_max:
            raise UserError(
                f"model.sigma_min={made.sigma_min} and model.sigma_max={made.sigma_max} must rise from above 0"
            )
        return made
    if not model.zero_terminal_snr:
        return tables.DDPMTable(in_steps[name]())
    if steps < 2:
        raise UserError("model.zero_terminal_snr needs model.schedule_steps of at least 2")
    return tables.DDPMTable(tables.zero_terminal_snr(in_steps[name]()))


def prediction(config: ConfigDict) -> parameterization.Parameterization:
    made_schedule = schedule(config)
    predictions: dict[str, Callable[[], parameterization.Parameterization]] = {
        "edm": lambda: parameterization.Edm(made_schedule, config.model.sigma_data),
        "eps": lambda: parameterization.Eps(made_schedule),
        "x0": lambda: parameterization.X0(made_schedule),
        "v": lambda: parameterization.V(made_schedule),
        "flow": lambda: parameterization.Flow(made_schedule),
    }
    made = pick("model.prediction", config.model.prediction, predictions)()
    if config.model.prediction == "eps" and made_schedule.sigma_max >= schedules.LARGEST_SIGMA:
        raise UserError(
            "model.prediction='eps' says nothing of the image where there is no signal, and this schedule ends there; "
            "predict v, x0 or edm, or choose another schedule (or model.zero_terminal_snr=False)"
        )
    return made


def objective(config: ConfigDict, predicted: parameterization.Parameterization) -> Objective:
    """How training draws sigma, and what an error costs there."""
    wanted, made_schedule = config.objective, predicted.schedule

    def lognormal(mean: float, std: float) -> draws.LogNormal:
        return draws.LogNormal(mean if wanted.mean is None else wanted.mean, std if wanted.std is None else wanted.std)

    def logit_normal() -> draws.Draw:
        """ln sigma = ln shift + logit t."""
        normal = lognormal(0.0, 1.0)
        return draws.LogNormal(normal.mean + math.log(config.model.flow_shift), normal.std)

    def steps() -> draws.Draw:
        if not isinstance(made_schedule, tables.DDPMTable):
            raise UserError(
                f"objective.draw='steps' needs a table, and model.schedule={config.model.schedule!r} is none"
            )
        return draws.Steps(made_schedule)

    draw_families: dict[str, Callable[[], draws.Draw]] = {
        "lognormal": lambda: lognormal(-1.2, 1.2),
        "log_uniform": lambda: draws.LogUniform(made_schedule),
        "logit_normal": logit_normal,
        "uniform": lambda: draws.Uniform(made_schedule),
        "steps": steps,
    }

    def gamma(default: float) -> float:
        return default if wanted.gamma is None else wanted.gamma

    weight_families: dict[str, Callable[[], weights.Weight]] = {
        "simple": lambda: weights.Simple(predicted),
        "edm": lambda: weights.Edm(config.model.sigma_data),
        "min_snr": lambda: weights.MinSNR(gamma(5.0)),
        "soft_min_snr": lambda: weights.SoftMinSNR(gamma(5.0)),
        "p2": lambda: weights.P2(gamma(1.0)),
        "v_uniform": weights.VUniform,
    }
    return Objective(
        draw=pick("objective.draw", wanted.draw, draw_families)(),
        weight=pick("objective.weight", wanted.weight, weight_families)(),
        rho=one_of("objective.loss", wanted.loss, ("l2", "l1", "huber")),  # type: ignore[arg-type]
        huber_delta=wanted.huber_delta,
        stratified=wanted.stratified,
        vlb=wanted.vlb,
    )


def diffusion(config: ConfigDict) -> DiffusionTask:
    predicted = prediction(config)
    learned_variance = config.model.learned_variance
    if learned_variance and not isinstance(predicted.schedule, tables.DDPMTable):
        raise UserError(f"model.learned_variance needs a table, and model.schedule={config.model.schedule!r} is none")
    if learned_variance and config.objective.draw != "steps":
        raise UserError("model.learned_variance learns the variance of a table's steps: set objective.draw='steps'")
    unknown = [name for name in config.model.conditions if name not in ("label",)]
    if unknown:
        raise UserError(f"model.conditions holds {unknown[0]!r}; conditions are: label")
    networks = {"unet": unet}
    check_sampling(config, predicted.schedule)
    return DiffusionTask(
        network=pick("network.name", config.network.name, networks)(config),
        parameterization=predicted,
        objective=objective(config, predicted),
        conditions=config.model.conditions,
        drop_rate=config.model.drop_rate,
        learned_variance=learned_variance,
        uncertainty=Uncertainty() if config.objective.uncertainty else None,
    )


def unet(config: ConfigDict) -> UNet:
    network, (height, width, channels) = config.network, config.data.shape
    try:
        check_sides(height, width, levels=len(network.channel_mults))
    except ValueError as error:
        raise UserError(f"{error}: change data.image_size or network.channel_mults") from error
    for level in {*network.attention_levels, len(network.channel_mults) - 1}:  # the middle attends at the last level
        mult = network.channel_mults[level]
        if mult * network.channels % network.attention_heads:
            raise UserError(
                f"network.attention_heads={network.attention_heads} does not divide {mult * network.channels} channels"
            )
    return UNet(
        out_channels=channels * (2 if config.model.learned_variance else 1),
        channels=network.channels,
        channel_mults=network.channel_mults,
        blocks_per_level=network.blocks_per_level,
        attention_levels=network.attention_levels,
        attention_heads=network.attention_heads,
        up_attention=one_of("network.up_attention", network.up_attention, ("every", "last")),  # type: ignore[arg-type]
        resample=one_of("network.resample", network.resample, ("conv", "residual")),  # type: ignore[arg-type]
        scale_shift=network.scale_shift,
        skip_scale=math.sqrt(0.5) if network.skip_rescale else 1.0,
        dropout=network.dropout,
        num_classes=len(config.data.class_names) if "label" in config.model.conditions else 0,
        dtype=pick("network.dtype", network.dtype, DTYPES),
        remat=network.remat,
    )


def classifier(config: ConfigDict) -> ClassifierTask:
    if config.train.sample_every or config.train.trajectory_every:
        raise UserError("task='classifier' draws no samples: train.sample_every and train.trajectory_every must be 0")
    if not config.data.class_names:
        raise UserError(f"task='classifier' needs classes, and data.name={config.data.name!r} has none")
    networks = {"convnet": convnet}
    return ClassifierTask(network=pick("network.name", config.network.name, networks)(config))


def convnet(config: ConfigDict) -> Classifier:
    least = 2 ** (len(config.network.channel_mults) - 1)
    if min(config.data.shape[:2]) < least:
        raise UserError(f"network.channel_mults={config.network.channel_mults} needs sides of at least {least}")
    return Classifier(
        num_classes=len(config.data.class_names),
        channels=config.network.channels,
        channel_mults=config.network.channel_mults,
        dropout=config.network.dropout,
        dtype=pick("network.dtype", config.network.dtype, DTYPES),
    )


TASKS: dict[str, Callable[[ConfigDict], Task]] = {"diffusion": diffusion, "classifier": classifier}


def task(config: ConfigDict) -> Task:
    """The task of a resolved config."""
    return pick("task", config.task, TASKS)(config)


# Training


def total_steps(config: ConfigDict, images: int) -> int:
    """How long to train: train.steps, or else train.epochs passes over `images`, or else train.images."""
    train = config.train
    if train.steps:
        return train.steps
    return max(1, math.ceil((train.epochs * images or train.images) / train.batch_size))


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    train = config.train
    return make_optimizer(
        one_of("train.optimizer", train.optimizer, ("adam", "adamw")),  # type: ignore[arg-type]
        learning_rate=train.learning_rate,
        warmup_steps=math.ceil(train.warmup_images / train.batch_size),
        b1=train.b1,
        b2=train.b2,
        eps=train.eps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
    )


def ema(config: ConfigDict) -> Ema:
    return Ema(halflife_images=config.train.ema_halflife_images, rampup=config.train.ema_rampup)


# Sampling


# The noise of the samplers that read sample.eta.
ETA_UNLESS_SET = {"ddim": 0.0, "euler_ancestral": 1.0, "dpmpp_2s_ancestral": 1.0, "dpmpp_2m_sde": 1.0, "dpmpp_sde": 1.0}


def noise_share(sample: ConfigDict) -> float:
    """eta of a sampler that has one."""
    return ETA_UNLESS_SET[sample.sampler] if sample.eta is None else sample.eta


def sampler(sample: ConfigDict) -> samplers.Sampler:
    """The solver that `config.sample` asks for."""

    def given(name: str, default: Any) -> Any:
        return default if sample[name] is None else sample[name]

    def heun() -> samplers.Heun:
        churn = {"s_churn": sample.s_churn, "s_min": sample.s_min, "s_max": given("s_max", math.inf)}
        rungs = len(sample.sigmas) if sample.ladder == "by_hand" else sample.steps
        return samplers.Heun(steps=rungs, s_noise=sample.s_noise, **churn)

    def ddpm() -> samplers.Sampler:
        variances: dict[str, Callable[[], samplers.Sampler]] = {
            "small": lambda: samplers.DDIM(eta=1.0),
            "large": lambda: samplers.DDPM(variance="large"),
            "learned": lambda: samplers.DDPM(variance="learned"),
        }
        return pick("sample.variance", sample.variance, variances)()

    families: dict[str, Callable[[], samplers.Sampler]] = {
        "ddpm": ddpm,
        "ddim": lambda: samplers.DDIM(eta=noise_share(sample)),
        "euler": lambda: samplers.DDIM(eta=0.0),
        "euler_ancestral": lambda: samplers.DDIM(eta=noise_share(sample)),
        "heun": heun,
        "dpm2": samplers.DPM2,
        "dpmpp_2s_ancestral": lambda: samplers.DPMpp2SAncestral(eta=noise_share(sample)),
        "dpmpp_2m": samplers.DPMpp2M,
        "dpmpp_3m": samplers.DPMpp3M,
        "dpmpp_2m_sde": lambda: samplers.DPMpp2MSDE(eta=noise_share(sample)),
        "dpmpp_sde": lambda: samplers.DPMppSDE(eta=noise_share(sample)),
        "lms": lambda: samplers.LMS(order=given("order", 4)),
        "unipc": lambda: samplers.UniPC(order=given("order", 2)),
        "langevin": lambda: samplers.Langevin(r=given("langevin_step", 0.25), moves=sample.moves),
        "predictor_corrector": lambda: samplers.PredictorCorrector(r=given("langevin_step", 0.1), moves=sample.moves),
        "ode": lambda: samplers.ODE(rtol=sample.rtol, atol=sample.atol),
    }
    return pick("sample.sampler", sample.sampler, families)()


FIRST_ORDER = ("ddpm", "ddim", "euler", "euler_ancestral")
# Where a ladder starts unless sample.sigma_max says otherwise, though the schedule goes further: the linear table's
# last sigma is 157. Above, nothing of the image is to be seen, and solvers of higher order, like eps prediction, lose
# their footing.
LARGEST_START = 160.0


def ladder(sample: ConfigDict, made_schedule: schedules.Schedule) -> ladders.Ladder:
    """The sigmas that `config.sample` asks for, [steps + 1]; of the adaptive solver, [start, end, 0]."""
    start = min(made_schedule.sigma_max, LARGEST_START) if sample.sigma_max is None else sample.sigma_max
    end = made_schedule.sigma_min if sample.sigma_min is None else sample.sigma_min
    if not 0 < end < start:
        raise UserError(
            f"the ladder's ends, sample.sigma_min={end:g} and sample.sigma_max={start:g}, must rise from above 0"
        )

    def by_hand() -> ladders.Ladder:
        try:
            return ladders.by_hand(sample.sigmas)
        except ValueError as error:
            raise UserError(f"sample.sigmas={error}") from error

    def table() -> tables.DDPMTable:
        """The steps of the model's table up to the start; all of them where more are asked for."""
        if not isinstance(made_schedule, tables.DDPMTable):
            raise UserError(
                f"sample.ladder={sample.ladder!r} takes the steps of a table, and this model has none; use karras"
            )
        if sample.steps > len(made_schedule.betas):
            raise UserError(f"sample.steps={sample.steps} is more than the table's {len(made_schedule.betas)} steps")
        steps = int(np.searchsorted(made_schedule.sigmas, start * (1 + 1e-6), side="right"))
        return tables.DDPMTable(made_schedule.betas[: max(steps, sample.steps)])

    def karras(low: float) -> ladders.Ladder:
        return ladders.karras(sample.steps, sigma_min=low, sigma_max=start, rho=sample.rho)

    def auto() -> ladders.Ladder:
        if sample.sampler == "ode":
            return ladders.by_hand((start, end))
        if not isinstance(made_schedule, tables.DDPMTable):
            return karras(end)
        if sample.sampler in FIRST_ORDER:
            return ladders.trailing(sample.steps, table())
        # The noise at which a table's walk of so many steps ends: below it a discrete model is often poor.
        T = len(made_schedule.betas)
        low = float(made_schedule.sigmas[max(T // sample.steps, 1) - 1])
        return karras(low if sample.sigma_min is None and low < start else end)

    families: dict[str, Callable[[], ladders.Ladder]] = {
        "auto": auto,
        "karras": lambda: karras(end),
        "logsnr": lambda: ladders.logsnr(sample.steps, sigma_min=end, sigma_max=start),
        "flow": lambda: ladders.flow(sample.steps, sigma_max=start, shift=sample.flow_shift),
        "uniform": lambda: ladders.uniform(sample.steps, made_schedule, sigma_max=start),
        "by_hand": by_hand,
        "leading": lambda: ladders.leading(sample.steps, table()),
        "trailing": lambda: ladders.trailing(sample.steps, table()),
        "linspace": lambda: ladders.linspace(sample.steps, table()),
        "quadratic": lambda: ladders.quadratic(sample.steps, table()),
        "exponential": lambda: ladders.exponential(sample.steps, table()),
    }
    rungs = pick("sample.ladder", sample.ladder, families)()
    if rungs[0] > made_schedule.sigma_max * (1 + 1e-6):
        raise UserError(
            f"the ladder starts at sigma {rungs[0]:g}, above this model's sigmas ({made_schedule.sigma_min:g} to "
            f"{made_schedule.sigma_max:g}); lower sample.sigma_max or sample.sigmas"
        )
    if not (np.diff(rungs.astype(np.float32)) < 0).all():
        raise UserError(
            "the ladder's rungs do not all fall in float32; take fewer sample.steps, or sigmas further apart"
        )
    return rungs


# Those that inpainting changes x under: without a memory of other rungs, and with noise of the step's own.
MEMORYLESS = (*FIRST_ORDER, "heun", "dpm2", "dpmpp_2s_ancestral", "predictor_corrector")
ALWAYS_NOISY = ("ddpm", "langevin", "predictor_corrector")


def is_noiseless(sample: ConfigDict) -> bool:
    """Whether the sampler follows the probability flow alone, so that it can also be walked upwards."""
    if sample.sampler in ETA_UNLESS_SET:
        return noise_share(sample) == 0
    return sample.sampler not in ALWAYS_NOISY and not (sample.sampler == "heun" and sample.s_churn)


def is_guided(config: ConfigDict) -> bool:
    """Whether guidance changes anything."""
    scale = config.sample.guidance_scale
    return scale is not None and changes(config, scale)


def changes(config: ConfigDict, scale: float) -> bool:
    """Whether guidance of this scale differs from the conditional model: a scale of 1 is that model, save where it is
    the strength of a push (classifier: 0 is) or the direction changes in any case (cfg_plus_plus).
    """
    return config.guidance.method == "cfg_plus_plus" or scale != (config.guidance.method != "classifier")


def check_sampling(config: ConfigDict, made_schedule: schedules.Schedule) -> None:
    """Raises UserError where `config.sample` and `config.guidance` cannot work, so that this is told before the first
    picture is due.
    """
    sampler(config.sample)
    ladder(config.sample, made_schedule)
    conditions(config)
    sample, wanted = config.sample, config.guidance
    if sample.sampler == "ddpm" and sample.variance == "learned" and not config.model.learned_variance:
        raise UserError(
            "sample.variance='learned': this model learned none (model.learned_variance); use small or large"
        )
    method = one_of("guidance.method", wanted.method, list(GUIDANCE))
    one_of("guidance.threshold", wanted.threshold, ("none", "static", "dynamic"))
    for name, low, high in (("rescale", 0, 1), ("quantile", 0, 1)):
        if not low <= wanted[name] <= high:
            raise UserError(f"guidance.{name}={wanted[name]} must lie in [{low}, {high}]")
    if wanted.sigma_high is not None and not wanted.sigma_low < wanted.sigma_high:
        raise UserError(f"guidance.sigma_low={wanted.sigma_low} must be below guidance.sigma_high={wanted.sigma_high}")
    if not is_guided(config):
        return
    if not math.isfinite(sample.guidance_scale):
        raise UserError(f"sample.guidance_scale={sample.guidance_scale} must be a finite number")
    if method in ("classifier_free", "cfg_plus_plus") and not config.model.conditions:
        raise UserError("guidance_scale: an unconditional model has nothing to guide; leave it out")
    if method == "cfg_plus_plus":
        if sample.sampler not in FIRST_ORDER:
            raise UserError(f"guidance.method='cfg_plus_plus' goes with the samplers {', '.join(FIRST_ORDER)} alone")
        if not 0 <= sample.guidance_scale <= 1:
            raise UserError(f"sample.guidance_scale={sample.guidance_scale} of cfg_plus_plus must lie in [0, 1]")
    if method == "autoguidance" and not wanted.weak_workdir:
        raise UserError("guidance.method='autoguidance' needs a second, weaker run: set guidance.weak_workdir")
    if method == "classifier" and not wanted.classifier_workdir:
        raise UserError("guidance.method='classifier' needs a classifier's run: set guidance.classifier_workdir")
    if method == "classifier" and not config.data.class_names:
        raise UserError("guidance.method='classifier' guides to a class, and this model's data have none")


# What each method makes of the denoiser; helpers are the other runs' tasks, with their weights beside the model's.


def _classifier_free(denoise: Denoise, scale: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    return guidance.classifier_free(denoise, scale, rescale=rescale)


def _cfg_plus_plus(denoise: Denoise, scale: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    return guidance.cfg_plus_plus(denoise, scale)


def _autoguidance(denoise: Denoise, scale: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    weak = helpers["weak"].denoiser(weights["weak"])
    return guidance.autoguidance(denoise, weak, scale, rescale=rescale)


def _classifier(denoise: Denoise, scale: Any, rescale: Any, weights: Any, helpers: Any) -> Denoise:
    def log_probability(x: Array, sigma: Array, cond: Any) -> Array:
        """ln p(class | D(x)): a classifier of clean images reads the denoised one."""
        logits, _ = helpers["classifier"].classify(weights["classifier"], denoise(x, sigma, cond).x0)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), cond["label"][:, None], axis=1)[:, 0]

    return guidance.classifier(denoise, log_probability, scale)


GUIDANCE: dict[str, Callable[..., Denoise]] = {
    "classifier_free": _classifier_free,
    "cfg_plus_plus": _cfg_plus_plus,
    "autoguidance": _autoguidance,
    "classifier": _classifier,
}


def guidance_runs(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """The other runs that the guidance needs, name -> (workdir, checkpoint)."""
    if not is_guided(config):
        return {}
    wanted = config.guidance
    if wanted.method == "autoguidance":
        return {"weak": (wanted.weak_workdir, wanted.weak_checkpoint)}
    return {"classifier": (wanted.classifier_workdir, "latest")} if wanted.method == "classifier" else {}


def guidance_numbers(config: ConfigDict) -> dict[str, np.float32]:
    """The guidance's numbers, which a compiled program takes as they come."""
    wanted = config.guidance
    numbers = {
        "rescale": wanted.rescale,
        "sigma_low": wanted.sigma_low,
        "sigma_high": math.inf if wanted.sigma_high is None else wanted.sigma_high,
        "quantile": wanted.quantile,
    }
    return {name: np.float32(value) for name, value in numbers.items()}


def guide(config: ConfigDict, task: DiffusionTask, helpers: Mapping[str, Any]) -> tuple[Any, Callable]:
    """(a key that tells this form of guidance from others, (weights, rows) -> the guided denoiser).

    weights: "model", each helper's, and "guidance", the numbers; rows: "scale" [B].
    """
    wanted, guided = config.guidance, is_guided(config)
    limited = wanted.sigma_low > 0 or wanted.sigma_high is not None
    form = (guided, wanted.method, bool(wanted.rescale), limited, wanted.threshold, *guidance_runs(config).values())

    def make(weights: Any, rows: Any) -> Denoise:
        plain, numbers = task.denoiser(weights["model"]), weights["guidance"]
        denoise = plain
        if guided:
            rescale = numbers["rescale"] if wanted.rescale else 0.0
            denoise = GUIDANCE[wanted.method](plain, rows["scale"], rescale, weights, helpers)
            if limited:
                denoise = guidance.interval(denoise, plain, numbers["sigma_low"], numbers["sigma_high"])
        if wanted.threshold == "static":
            return guidance.static_clip(denoise)
        return guidance.dynamic_threshold(denoise, numbers["quantile"]) if wanted.threshold == "dynamic" else denoise

    return form, make


def conditions(config: ConfigDict) -> dict[str, np.ndarray]:
    """What each image that `config.sample` asks for is conditioned on, [num_images, ...] by name."""
    sample = config.sample
    of_classifier = config.guidance.method == "classifier" and is_guided(config)
    if "label" not in config.model.conditions and not of_classifier:
        if sample.labels:
            raise UserError(f"sample.labels={sample.labels}: this model was trained without labels")
        return {}
    classes = len(config.data.class_names)
    wrong = [label for label in sample.labels if label not in range(classes)]
    if wrong:
        raise UserError(f"sample.labels holds {wrong[0]!r}; labels are 0..{classes - 1}")
    turn = np.asarray(sample.labels or range(classes), np.int32)
    return {"label": turn[np.arange(sample.num_images) % len(turn)]}


def settings(config: ConfigDict, **given: Any) -> ConfigDict:
    """The config with what is given (not None) in place of its keys of the groups sample and guidance; raises UserError
    for what cannot be right.
    """
    config = config.copy_and_resolve_references()
    for name, value in given.items():
        if value is not None:
            known_as(name, [*config.sample, *config.guidance])
            group = "guidance" if name in config.guidance else "sample"
            try:
                value = value.item() if isinstance(value, np.generic) else value
                config[group][name] = float(value) if name == "guidance_scale" else value
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{group}.{name}={value!r}: {' '.join(str(error).split())}") from error
    check_sample(config.sample)
    return config
