"""What is trained."""

import math
from collections.abc import Callable
from dataclasses import replace

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import adapts, one_of
from jdiff.diffusion import draws, schedules, tables
from jdiff.from_config.autoencoders import distances, first_stage
from jdiff.from_config.conditions import conditions
from jdiff.from_config.guidance import away_from
from jdiff.from_config.names import pick
from jdiff.from_config.networks import convnet, denoising
from jdiff.from_config.process import objective, prediction, sigma_data
from jdiff.from_config.sampling import LARGEST_START
from jdiff.from_config.spaces import space
from jdiff.from_config.training import step_after
from jdiff.networks.discriminator import PatchDiscriminator
from jdiff.networks.lora import LAYERS
from jdiff.networks.uncertainty import Uncertainty
from jdiff.spaces import Masks
from jdiff.tasks import Task
from jdiff.tasks.adversary import Adversary
from jdiff.tasks.autoencoder import AutoencoderTask
from jdiff.tasks.classifier import ClassifierTask
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.tasks.flow_map import (
    WINDOW,
    Consistency,
    ContinuousConsistency,
    FlowMapTask,
    Loss,
    MeanFlow,
    Seen,
    Shortcut,
)
from jdiff.tasks.frozen import Adapted, FrozenTask, LowRank
from jdiff.tasks.segmentation import SegmentationTask


def diffusion(config: ConfigDict) -> DiffusionTask:
    """The task of learning a denoiser."""
    predicted = prediction(config)
    learned_variance = config.model.learned_variance
    if learned_variance and not isinstance(predicted.schedule, tables.DDPMTable):
        raise UserError(f"model.learned_variance needs a table, and model.schedule={config.model.schedule!r} is none")
    if learned_variance and config.objective.draw != "steps":
        raise UserError("model.learned_variance learns the variance of a table's steps: set objective.draw='steps'")
    given, lives_in = conditions(config), space(config)
    return DiffusionTask(
        network=denoising(config, lives_in.shape, given),
        parameterization=predicted,
        objective=objective(config, predicted),
        space=lives_in,
        conditions=given,
        learned_variance=learned_variance,
        uncertainty=Uncertainty() if config.objective.uncertainty else None,
    )


TO_ZERO = ("consistency", "continuous_consistency")  # flow_map.loss that learns jumps to 0 alone
# The share of a batch by which each learns s = sigma.
INSTANTS = {"consistency": 0.0, "continuous_consistency": 0.0, "mean_flow": 0.25, "shortcut": 0.75}


def flow_map(config: ConfigDict) -> FlowMapTask:
    """The task of learning a flow map."""
    wanted = config.flow_map
    for key, chosen in (
        ("model.learned_variance", config.model.learned_variance),
        ("objective.uncertainty", config.objective.uncertainty),
    ):
        if chosen:
            raise UserError(f"{key} is for task='diffusion': with task='flow_map' set it to False")
    task = replace(diffusion(config), jumps=True, scale_input=bool(wanted.scales))
    schedule, draw = task.parameterization.schedule, task.objective.draw
    kind = one_of("flow_map.derivative", wanted.derivative, ("auto", "forward", "difference"))
    slow = isinstance(schedule, (schedules.EDM, schedules.VE)) and config.network.noise_embedding == "sinusoidal"
    window = None if kind == "forward" or (kind == "auto" and slow) else WINDOW

    seen = Seen(config.train.batch_size, *config.train.since)

    def c(default: float) -> float:
        return default if wanted.c is None else wanted.c

    def mean_flow() -> MeanFlow:
        to = draw
        if wanted.to_mean is not None or wanted.to_std is not None:
            own = draw
            if not isinstance(own, draws.LogNormal):
                usual, said = draws.LogNormal(), config.objective
                own = draws.LogNormal(_first(said.mean, usual.mean), _first(said.std, usual.std))
            to = draws.LogNormal(_first(wanted.to_mean, own.mean), _first(wanted.to_std, own.std))
        return MeanFlow(to=to, p=wanted.p, c=c(1e-3), window=window)

    losses: dict[str, Callable[[], Loss]] = {
        "consistency": lambda: Consistency(q=wanted.q, stage_images=wanted.stage_images, seen=seen, c=c(0.0)),
        "continuous_consistency": lambda: ContinuousConsistency(
            sigma_data=sigma_data(config),
            warmup_images=wanted.warmup_images,
            seen=seen,
            c=c(0.1) or None,
            window=window,
        ),
        "mean_flow": mean_flow,
        "shortcut": lambda: Shortcut(largest=min(schedule.sigma_max, LARGEST_START)),
    }
    made, share = pick("flow_map.loss", wanted.loss, losses)(), instants(config)
    _check_instants(config, share)
    if wanted.scales:
        _check_trained_in(config, share)
    as_float32 = config.copy_and_resolve_references()
    as_float32.network.dtype = "float32"
    return FlowMapTask(
        task=task,
        exact=replace(task, network=denoising(as_float32, task.space.shape, task.conditions)),
        losses=made,
        instants=share,
        guidance=tuple(wanted.scales) or None,
        away_from=away_from(config) if wanted.scales else (),
    )


def _first(*values: float | None) -> float:
    """The first that is given."""
    return next(value for value in values if value is not None)


def instants(config: ConfigDict) -> float:
    """The share of a batch by which a flow map learns s = sigma, the posterior mean."""
    wanted = config.flow_map
    return INSTANTS[wanted.loss] if wanted.instants is None else wanted.instants


def _check_instants(config: ConfigDict, share: float) -> None:
    rows = config.train.batch_size // config.train.accumulate
    if not share and config.flow_map.loss == "shortcut":
        raise UserError(
            "flow_map.instants=0: a shortcut learns the data by its instants alone: leave it out, or set it above 0"
        )
    if share and not 0 < round(share * rows) < rows:
        raise UserError(
            f"flow_map.instants={share:g} of {rows} images (train.batch_size / train.accumulate) leaves "
            f"{'no instant' if share < 0.5 else 'no jump'}: set train.accumulate lower, or train.batch_size higher"
        )


def _check_trained_in(config: ConfigDict, instants: float) -> None:
    given = tuple(config.flow_map.scales)
    if len(given) != 2 or given[0] > given[1]:
        raise UserError(f"flow_map.scales={given} must be two scales, (lowest, highest)")
    try:
        learned = bool(config.model.conditions) and bool(away_from(config))
    except UserError:  # no condition is dropped in training
        learned = False
    if not learned:
        raise UserError(
            f"flow_map.scales={given} leads away from the model without conditions, which is not learned: set "
            "model.conditions and a model.drop_rate above 0"
        )
    if not instants:
        raise UserError(
            f"flow_map.scales={given} mixes posterior means, s = sigma, which this loss does not learn by itself: "
            "set flow_map.instants=0.25"
        )


def classifier(config: ConfigDict) -> ClassifierTask:
    """The task of telling the class of an image."""
    if config.train.sample_every or config.train.trajectory_every:
        raise UserError("task='classifier' draws no samples: train.sample_every and train.trajectory_every must be 0")
    if config.train.initial or config.lora.rank:
        raise UserError("task='classifier' is trained anew: train.initial and lora.rank are for task='diffusion'")
    if not config.data.class_names:
        raise UserError(f"task='classifier' needs classes, and data.name={config.data.name!r} has none")
    if config.data.labels_per_image > 1:
        raise UserError("task='classifier' tells one class an image, and these images have several labels")
    networks, lives_in = {"convnet": convnet}, space(config)
    network = pick("network.name", config.network.name, networks)(config, lives_in.shape)
    return ClassifierTask(network=network, space=lives_in)


def autoencoder(config: ConfigDict) -> AutoencoderTask:
    """The task of giving images back through latents."""
    if config.train.trajectory_every:
        raise UserError("task='autoencoder' has no denoising strips: train.trajectory_every must be 0")
    if config.eval.every:
        raise UserError("task='autoencoder' draws no images to be scored: eval.every must be 0")
    if config.lora.rank:
        raise UserError("task='autoencoder' is trained whole: lora.rank is for task='diffusion'")
    if config.model.space != "pixels":
        raise UserError(
            f"task='autoencoder' reads pixels, and model.space={config.model.space!r}: set model.space='pixels'"
        )
    group, stage = config.autoencoder, first_stage(config, config.network.dtype)
    if group.decoder_only and not config.train.initial:
        raise UserError(
            "autoencoder.decoder_only=True needs an encoder to keep: set train.initial to an autoencoder's run"
        )
    if group.decoder_only and config.train.optimizer == "adamw" and config.train.weight_decay:
        raise UserError(
            "autoencoder.decoder_only=True keeps the encoder, and train.optimizer='adamw' shrinks all weights: set "
            "train.optimizer=adam"
        )
    return AutoencoderTask(
        first_stage=stage,
        reconstruction=distances(config),
        adversary=adversary(config),
        equivariance=group.equivariance,
        frozen_encoder=group.decoder_only,
    )


def segmentation(config: ConfigDict) -> SegmentationTask:
    """The task of telling the class of each pixel of an image, by the network of a diffusion model of its masks."""
    if adapts(config):
        raise UserError(
            "task='segmentation' is trained anew: set condition.image.into to 'concat' or 'cross_attention'"
        )
    if config.train.initial or config.lora.rank:
        raise UserError("task='segmentation' is trained anew: train.initial and lora.rank are for task='diffusion'")
    lives_in, given = space(config), conditions(config)
    if not isinstance(lives_in, Masks):
        raise UserError(
            f"task='segmentation' tells the classes of masks, and model.space={config.model.space!r}: set "
            "model.space='masks'"
        )
    if not given:
        raise UserError("task='segmentation' needs an image to look at: set model.conditions=('image',)")
    network = denoising(config, lives_in.shape, given)
    return SegmentationTask(network=network, space=lives_in, conditions=given)


def adversary(config: ConfigDict) -> Adversary | None:
    """The autoencoder's second player, if it has one."""
    group, sides = config.autoencoder, config.data.shape[:2]
    kind = one_of("autoencoder.adversary", group.adversary, ("none", "hinge", "non_saturating"))
    if kind == "none":
        return None
    if min(sides) < 2**group.adversary_layers:
        raise UserError(
            f"autoencoder.adversary_layers={group.adversary_layers} halve images of {sides[0]}x{sides[1]} to nothing: "
            f"set at most {int(math.log2(min(sides)))}"
        )
    return Adversary(
        network=PatchDiscriminator(channels=group.adversary_channels, layers=group.adversary_layers),
        kind=kind,  # type: ignore[arg-type]
        weight=group.adversary_weight,
        adaptive=group.adversary_adaptive,
        start_step=step_after(config, group.adversary_start),
        r1_gamma=group.adversary_r1,
    )


def beside_frozen(config: ConfigDict) -> DiffusionTask | FlowMapTask | FrozenTask:
    """The task of a denoiser; or, beside the frozen weights of train.initial, of low-rank parts or an adapter alone."""
    task, wanted = (flow_map if config.task == "flow_map" else diffusion)(config), config.lora
    adapter = adapts(config) and bool(config.train.initial)  # exported, it is merged
    if not (wanted.rank or adapter):
        return task
    chosen = "lora.rank" if wanted.rank else "condition.image.into='adapter'"
    if config.objective.uncertainty:
        raise UserError(f"objective.uncertainty is learned with all weights: with {chosen} set it to False")
    if not config.train.initial:
        raise UserError(f"lora.rank={wanted.rank} needs weights to stand beside: set train.initial")
    if adapter:
        if wanted.rank:
            raise UserError("lora.rank and condition.image.into='adapter' both stand beside frozen weights: choose one")
        return FrozenTask(task=task, parts=Adapted())
    layers = tuple(one_of("lora.layers", layer, LAYERS) for layer in wanted.layers)
    alpha = float(wanted.rank) if wanted.alpha is None else wanted.alpha
    return FrozenTask(task=task, parts=LowRank(wanted.rank, alpha, layers))


TASKS: dict[str, Callable[[ConfigDict], Task]] = {
    "diffusion": beside_frozen,
    "flow_map": beside_frozen,
    "autoencoder": autoencoder,
    "classifier": classifier,
    "segmentation": segmentation,
}


def task(config: ConfigDict, *, train: bool = True) -> Task:
    """The task of a resolved config; train=False: without what training alone needs, such as the files of LPIPS."""
    return pick("task", config.task, TASKS)(config if train else _as_used(config))


def _as_used(config: ConfigDict) -> ConfigDict:
    """The config of an autoencoder that learns no more."""
    if config.task != "autoencoder":
        return config
    config = config.copy_and_resolve_references()
    config.autoencoder.update(losses=("l1",), loss_weights=(), adversary="none", decoder_only=False)
    return config
