"""What a call asks for, checked and frozen: how many images, of what, by which sampler, ladder and guidance."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.conditions import Condition
from jdiff.conditions.examples import TRUTH, load_examples
from jdiff.conditions.image import Image
from jdiff.conditions.label import Label
from jdiff.conditions.scalars import Scalars
from jdiff.conditions.text import Text
from jdiff.config import adapts, check_values, known_as, one_of
from jdiff.diffusion.guidance import Guidance
from jdiff.diffusion.ladders import Ladder
from jdiff.diffusion.samplers import Sampler
from jdiff.diffusion.schedules import Schedule
from jdiff.from_config import presets
from jdiff.from_config.conditions import label as label_condition
from jdiff.from_config.guidance import GUIDANCES, THRESHOLDS, away_from
from jdiff.from_config.sampling import is_first_order, names
from jdiff.networks.adapter import ADAPTER_SCALE

Rows = dict[str, Any]  # name -> arrays [n, ...]

KINDS: tuple[type[Condition], ...] = (Label, Text, Image, Scalars)
# Keys that change no image by these weights: what is written besides, how many are drawn at a time, which weights, and
# where other keys come from.
FREE = (
    *("name", "condition_dir", "batch_size", "save_images", "trajectory", "compare_steps"),
    *("checkpoint", "ema", "preset", "given"),
)
TO_CLASSES = "classifier"  # the method that guides by a classifier, to a class that the model need not know


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """config: the run's with the call's settings in place. scale: of the guidance, for each image. guided: whether any
    of them changes anything. in_turn: the conditions, of which the images take each in turn. Likewise, where they are
    known, captions: texts; names: of the files of condition images, and a note on them; truth: the images that
    conditions were taken from.
    """

    config: ConfigDict
    sampler: Sampler
    sigmas: Ladder
    scale: Float[np.ndarray, " n"]
    guided: bool
    in_turn: Rows
    captions: list[str] | None = None
    names: tuple[str, ...] = ()
    note: str = ""
    truth: Num[np.ndarray, "given h w c"] | None = None

    @property
    def count(self) -> int:
        return self.config.sample.num_images

    @property
    def cond(self) -> Rows:
        """The conditions of each image."""
        return _taken(self.in_turn, np.arange(self.count))

    @property
    def labels(self) -> np.ndarray | None:
        """The label of each image, where it has one."""
        return self.labels_of(np.arange(self.count))

    @property
    def texts(self) -> list[str] | None:
        """The text of each image, where it has one."""
        return self.texts_of(np.arange(self.count))

    def labels_of(self, indices: np.ndarray) -> np.ndarray | None:
        """The labels of the images of these numbers."""
        known = None if "label" in self.in_turn.get("drop", {}) else self.in_turn.get("label")
        return None if known is None else _taken(known, indices)

    def texts_of(self, indices: np.ndarray) -> list[str] | None:
        """The texts of the images of these numbers."""
        return None if self.captions is None else [self.captions[i % len(self.captions)] for i in indices]

    def guidances(self, scale: Any, helpers: Mapping[str, Any]) -> tuple[Guidance, ...]:
        """The guidances for a batch of images; scale: theirs. helpers: see from_config.guidance."""
        return from_config.guidances(self.config, scale, helpers, guided=self.guided)

    def identity(self) -> dict[str, Any]:
        """All that decides the images, but for the weights."""
        sample, guidance = self.config.sample.to_dict(), self.config.guidance.to_dict()
        given = hashlib.sha256()
        for array in jax.tree.leaves((self.in_turn, self.scale)):
            given.update(np.ascontiguousarray(array).tobytes())
        given.update("\n".join(self.names).encode("utf-8", "surrogateescape"))
        return {
            **{f"sample.{name}": value for name, value in sample.items() if name not in FREE},
            **{f"guidance.{name}": value for name, value in guidance.items()},
            "conditions": given.hexdigest()[:16],
        }

    def passes(self) -> int:
        """Network passes of a denoiser call."""
        helpers = dict.fromkeys(from_config.helper_runs(self.config))
        return math.prod(guidance.passes for guidance in self.guidances(self.scale, helpers))

    def calls_told(self) -> str:
        """How often the network is called for a batch, in words."""
        calls = self.sampler.nfe(len(self.sigmas) - 1)
        return (
            "as many network calls as the solver needs" if calls is None else f"{calls * self.passes():,} network calls"
        )


def read(
    config: ConfigDict,
    schedule: Schedule,
    settings: Mapping[str, Any],
    *,
    conditions: Sequence[Condition] | None,
    workdir: Path | None = None,
    num_images: int | None = None,
) -> Request:
    """The request of a call of a model of this config.

    settings: keys of the groups sample and guidance, and conditions by their arguments; a condition_dir among them is
    read, and tells how many images where num_images does not. conditions: the model's; None where a call needs none.
    workdir: the run's, where its examples and tuned settings are. Raises UserError for whatever cannot be.
    """
    if (width := settings.get("ema")) is not None and (width or None) != (config.sample.ema or None):
        raise UserError(f"ema={width} is chosen where weights are loaded: jdiff.load(FOLDER, ema={width})")
    kinds: list[Any] = [*KINDS, *(conditions or ())]
    config = _preset(config, settings, workdir)
    arguments = {kind.argument: kind for kind in kinds}
    given = {name: settings[name] for name in arguments if settings.get(name) is not None}
    rest = {name: value for name, value in settings.items() if name not in (*arguments, "guidance_scale")}
    wanted = overridden(config, {"num_images": num_images, **rest})
    _check_rungs(wanted, {*_keys_of_call(config, settings), *config.sample.given})
    files = None
    if (folder := settings.get("condition_dir")) and conditions is not None and Image.argument not in given:
        _check_known({Image.name}, {condition.name: condition for condition in conditions})
        files = from_config.condition_files(wanted, folder)
        given[Image.argument] = files.images
        if num_images is None:
            wanted.sample.num_images = len(files.names) * wanted.sample.images_per_condition
    scale, guided = read_scale(wanted, settings.get("guidance_scale"))
    in_shapes(wanted, wanted.sample.shape)
    solver, sigmas = from_config.sampler(wanted.sample), from_config.ladder(wanted.sample, schedule)
    _check(wanted, solver, scale, guided=guided)
    in_turn: Rows = {}
    captions = truth = None
    if conditions is not None:
        asked = {arguments[name].name: values for name, values in given.items()}
        to_class = guided and wanted.guidance.method == TO_CLASSES
        in_turn, captions, truth = rows(wanted, conditions, asked, workdir, to_class=to_class)
    return Request(
        config=wanted,
        sampler=solver,
        sigmas=sigmas,
        scale=scale,
        guided=guided,
        in_turn=in_turn,
        captions=captions,
        names=files.names if files else (),
        truth=files.truth if files else truth,
        note=files.note if files else "",
    )


OF_A_CALL = ("guidance", "sample")


def _preset(config: ConfigDict, settings: Mapping[str, Any], workdir: Path | None) -> ConfigDict:
    """The config with the tuned settings that the call or the config asks for, those apart that either gives."""
    named = settings.get("preset")
    calls = config.sample.preset if named is None else named
    if isinstance(calls, bool) or not isinstance(calls, (int, np.integer)) or calls < 0:
        raise UserError(f"preset={calls!r} must be a number of denoiser calls that --mode=tune was given")
    if not calls:
        return config
    return presets.resolved(config, workdir, int(calls), {*_keys_of_call(config, settings), *config.sample.given})


def _keys_of_call(config: ConfigDict, settings: Mapping[str, Any]) -> set[str]:
    short = {name for name, value in settings.items() if value is not None}
    return {f"{group}.{name}" for name in short for group in OF_A_CALL if name in config[group]}


def _check_rungs(config: ConfigDict, given: Collection[str]) -> None:
    """Raises UserError where steps are given that a ladder by hand, which is not, does not have."""
    steps, sigmas = config.sample.steps, config.sample.sigmas
    of_call = "sample.steps" in given and not set(presets.RUNGS) & set(given)
    if config.sample.ladder == "by_hand" and of_call and steps != len(sigmas):
        raise UserError(
            f"sample.steps={steps} does not change this model's ladder by hand, of {len(sigmas)} rungs: give "
            "sample.sigmas, or set sample.ladder=auto"
        )


def overridden(config: ConfigDict, given: Mapping[str, Any], groups: tuple[str, ...] = OF_A_CALL) -> ConfigDict:
    """The config with given values (not None) in place of its keys of these groups; UserError for a wrong one."""
    config = config.copy_and_resolve_references()
    for name, value in given.items():
        if value is not None:
            known_as(name, [key for group in groups for key in config[group]])
            group = next(group for group in groups if name in config[group])
            try:
                config[group][name] = value.item() if isinstance(value, np.generic) else value
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{group}.{name}={value!r}: {' '.join(str(error).split())}") from error
    try:
        check_values(config, *groups)
    except TypeError as error:
        raise UserError(f"{groups[-1]}: a setting is of the wrong type: {error}") from error
    return config


def read_scale(config: ConfigDict, given: Any) -> tuple[Float[np.ndarray, " n"], bool]:
    """(the guidance's scale for each image, whether any changes anything). given: a number, or one an image; None: the
    config's.
    """
    scale = config.sample.guidance_scale if given is None else given
    if scale is None:
        return np.ones(config.sample.num_images, np.float32), False
    try:
        scales = np.asarray(scale, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"guidance_scale={scale!r} must be a number, or one an image") from error
    count = config.sample.num_images
    if scales.ndim and scales.shape != (count,):  # a column of scales would be laid over the pixels
        raise UserError(f"guidance_scale holds {scales.size} numbers for {count} images")
    return np.broadcast_to(scales, count), any(changes(config, float(one)) for one in np.unique(scales))


def changes(config: ConfigDict, scale: float) -> bool:
    """Whether guidance of this scale differs from the conditional model, which is scale 1 of classifier_free and
    autoguidance, scale 0 of classifier, and no scale of cfg_plus_plus, whose direction is the unconditional one.
    """
    return config.guidance.method == "cfg_plus_plus" or scale != (config.guidance.method != TO_CLASSES)


def in_shapes(config: ConfigDict, shape: tuple[int, ...]) -> tuple[int, int]:
    """`shape`, or the usual one for (). Raises UserError where the model was not trained in it."""
    trained = config.data.shapes or (tuple(config.data.shape[:2]),)
    if not shape:
        return trained[0]
    if tuple(shape) not in trained:
        known = ", ".join(f"({height}, {width})" for height, width in trained)
        raise UserError(f"sample.shape={tuple(shape)}: this model was trained in the shapes (height, width) {known}")
    return shape[0], shape[1]


def in_size(config: ConfigDict, size: tuple[int, ...]) -> tuple[int, int]:
    """(height, width) `size`, which need not be trained. Raises UserError where the network cannot draw it."""
    if len(size) != 2:
        raise UserError(f"sample.size={tuple(size)} must be (height, width)")
    if config.data.shapes:
        raise UserError(
            f"sample.size={tuple(size)}: this model was trained in several shapes, and knows each: set sample.shape to "
            "one of them"
        )
    if any(side % from_config.multiple(config) for side in size):
        raise UserError(
            f"sample.size={tuple(size)}: sides must be multiples of {from_config.multiple(config)} for this network"
        )
    return size[0], size[1]


def check(config: ConfigDict, schedule: Schedule) -> None:
    """Raises UserError where `config.sample` and `config.guidance` cannot work, so that this is told before the first
    picture is due.
    """
    if config.sample.preset:
        raise UserError(f"sample.preset={config.sample.preset} is for a trained run, once --mode=tune has found it")
    in_shapes(config, config.sample.shape)
    scale, guided = read_scale(config, None)
    solver = from_config.sampler(config.sample)
    from_config.ladder(config.sample, schedule)
    _check(config, solver, scale, guided=guided)


def _check(config: ConfigDict, solver: Sampler, scale: np.ndarray, *, guided: bool) -> None:
    _check_conditions(config)
    sample, wanted = config.sample, config.guidance
    if sample.sampler == "ddpm" and sample.variance == "learned" and not config.model.learned_variance:
        raise UserError(
            "sample.variance='learned': this model learned none (model.learned_variance); use small or large"
        )
    _check_jumps(config, solver)
    method = one_of("guidance.method", wanted.method, list(GUIDANCES))
    one_of("guidance.threshold", wanted.threshold, list(THRESHOLDS))
    if wanted.sigma_high is not None and not wanted.sigma_low < wanted.sigma_high:
        raise UserError(f"guidance.sigma_low={wanted.sigma_low} must be below guidance.sigma_high={wanted.sigma_high}")
    _check_scales(config, guided=guided)
    if not guided:
        return
    if not np.isfinite(scale).all():
        raise UserError(f"sample.guidance_scale={_worst(scale, ~np.isfinite(scale))} must be a finite number")
    drops = method in ("classifier_free", "cfg_plus_plus")
    if drops and not config.model.conditions:
        raise UserError("guidance_scale: an unconditional model has nothing to guide; leave it out")
    if wanted.conditions and not drops:
        raise UserError(f"guidance.conditions={wanted.conditions} goes with classifier_free and cfg_plus_plus alone")
    if drops:
        away_from(config)
    if method == "cfg_plus_plus":
        if not is_first_order(solver):
            first_order = names(is_first_order, sample)
            raise UserError(f"guidance.method='cfg_plus_plus' goes with the samplers {first_order} alone")
        outside = (scale < 0) | (scale > 1)
        if outside.any():
            raise UserError(f"sample.guidance_scale={_worst(scale, outside)} of cfg_plus_plus must lie in [0, 1]")
    if method == "autoguidance" and not wanted.weak_workdir:
        raise UserError("guidance.method='autoguidance' needs a second, weaker run: set guidance.weak_workdir")
    if method == "trained_in":
        learned = _trained_in(config)
        if not learned:
            raise UserError("guidance.method='trained_in': this model learned none (flow_map.scales)")
        low, high = learned
        outside = (scale < low) | (scale > high)
        if outside.any():
            raise UserError(
                f"sample.guidance_scale={_worst(scale, outside)} of trained_in must lie in [{low:g}, {high:g}], as "
                "flow_map.scales did in training"
            )
    if method == TO_CLASSES:
        if not wanted.classifier_workdir:
            raise UserError("guidance.method='classifier' needs a classifier's run: set guidance.classifier_workdir")
        if config.data.labels_per_image > 1:
            raise UserError("guidance.method='classifier' guides to one class, and these images have several labels")
        if not config.data.class_names:
            raise UserError("guidance.method='classifier' guides to a class, and this model's data have none")


def _check_jumps(config: ConfigDict, solver: Sampler) -> None:
    """Raises UserError where the sampler asks a flow map for what it did not learn, or another model for jumps."""
    name, wanted = config.sample.sampler, config.flow_map
    if config.task != "flow_map":
        if solver.jumps:
            raise UserError(
                f"sample.sampler={name!r} asks where the flow ends, which task={config.task!r} did not learn: take "
                "sample.sampler=ddim, or tune this model with task=flow_map, from train.initial"
            )
        return
    to_zero, instants = wanted.loss in from_config.TO_ZERO, from_config.instants(config)
    if not (solver.lands or (instants and not solver.jumps) or (solver.jumps and not to_zero)):
        if to_zero:
            raise UserError(
                f"sample.sampler={name!r} asks for more than the flow's end at 0, and flow_map.loss={wanted.loss!r} "
                f"learned no more{'' if instants else ' (flow_map.instants is 0)'}: set sample.sampler=consistency"
            )
        raise UserError(
            f"sample.sampler={name!r} asks for the posterior mean, which flow_map.instants=0 did not learn: set "
            "sample.sampler=flow_map"
        )


def check_learned(config: ConfigDict, what: str, *, to: bool | None = None) -> None:
    """Raises UserError where `what` asks a flow map for what it did not learn: the posterior mean, s = sigma, or, with
    `to`, jumps (to: whether they all lead to 0).
    """
    wanted = config.flow_map
    if config.task != "flow_map":
        return
    if to is None and not from_config.instants(config):
        raise UserError(
            f"{what} asks for the posterior mean, D(x, sigma, sigma), which this model did not learn: flow_map.loss="
            f"{wanted.loss!r} with flow_map.instants=0; a model trained with flow_map.instants=0.25 has it"
        )
    if to is False and wanted.loss in from_config.TO_ZERO:
        raise UserError(f"{what} asks for jumps above 0, and flow_map.loss={wanted.loss!r} learned those to 0 alone")


def _trained_in(config: ConfigDict) -> tuple[float, ...]:
    """(lowest, highest) guidance scale that was trained in; (): none."""
    return tuple(config.flow_map.scales) if config.task == "flow_map" else ()


def _check_scales(config: ConfigDict, *, guided: bool) -> None:
    """Raises UserError where a model with guidance trained in, of scales without 1, is asked for that of 1."""
    learned = _trained_in(config)
    if not learned or learned[0] <= 1 <= learned[1]:
        return
    wanted = config.guidance
    within = bool(wanted.sigma_low) or wanted.sigma_high is not None
    if wanted.method != "trained_in" or not guided or within:
        raise UserError(
            f"flow_map.scales={learned} has no 1, so that this model is guided always: set guidance.method=trained_in "
            f"and sample.guidance_scale={learned[0]:g}{', without guidance.sigma_low and sigma_high' if within else ''}"
        )


def rows(
    config: ConfigDict,
    conditions: Sequence[Condition],
    given: Mapping[str, Any],
    workdir: Path | None,
    *,
    to_class: bool = False,
) -> tuple[Rows, list[str] | None, np.ndarray | None]:
    """(cond, texts, the images that examples are of), each of them taken in turn by the images: of as many rows as are
    given.

    Given some conditions of a model that has several, the others are dropped. Given none at all, classes come in turn,
    or, of a model that is given more than a label, the conditions of the run's examples. What the
    images' shape tells is always given. to_class: labels are read even by a model without, as the guidance needs them.
    Raises UserError where a condition is unknown to the model, of a wrong form, or needed and missing.
    """
    sides = tuple(config.data.shape[:2])
    told = {one.name: values for one in conditions if (values := one.of_shape(sides)) is not None}
    known = {condition.name: condition for condition in conditions if condition.name not in told}
    readable = {condition.name: condition for condition in conditions} | (
        {"label": label_condition(config, 0.0)} if to_class and "label" not in known else {}
    )
    listed = {"label": list(config.sample.labels) or None, "text": list(config.sample.texts) or None}
    given = {name: values for name, values in {**listed, **given}.items() if values is not None}
    _check_known(given, readable)
    made = {name: readable[name].of_caller(values) for name, values in given.items()}
    captions, truth = list(given["text"]) if "text" in given else None, None
    if not made and set(known) - {"label"}:
        examples = load_examples(workdir, list(known.values()), sides)
        made, truth = {name: examples[name] for name in known}, examples.get(TRUTH)
        captions = [str(text) for text in examples["captions"]] if "text" in known else None
    elif not made and isinstance(label := readable.get("label"), Label):
        made["label"] = label.every_class()
    if to_class and "label" not in made:
        raise UserError("guidance.method='classifier' guides to a class: say to which by labels")
    for name, values in made.items():
        if not _length(values):
            raise UserError(f"{name}: there are none; give one an image, or fewer, which are taken in turn")
    missing = [condition for name, condition in known.items() if name not in made]
    scale = {}
    if config.sample.adapter_scale != 1.0:
        scale[ADAPTER_SCALE] = np.full(1, config.sample.adapter_scale, np.float32)
    return made | told | scale | _dropped(missing, sides), captions, truth


def _check_known(asked: Iterable[str], known: Mapping[str, Condition]) -> None:
    """Raises UserError for a condition that the model does not take."""
    for name in asked:
        if name not in known:
            words = next((kind.words for kind in KINDS if kind.name == name), name)
            raise UserError(f"this model was trained without {words}; it takes {', '.join(known) or 'nothing'}")


def _check_conditions(config: ConfigDict) -> None:
    """Raises UserError where config.sample asks for conditions that the model cannot be given."""
    sample, known = config.sample, config.model.conditions
    if sample.labels and "label" not in known and config.guidance.method != TO_CLASSES:
        raise UserError(f"sample.labels={sample.labels}: this model was trained without labels")
    if sample.texts and "text" not in known:
        raise UserError(f"sample.texts={sample.texts}: this model was trained without texts")
    label_condition(config, 0.0).of_caller(sample.labels, "sample.labels")
    if sample.adapter_scale != 1.0 and not adapts(config):
        raise UserError(f"sample.adapter_scale={sample.adapter_scale}: this model has no adapter")


def _dropped(missing: Sequence[Condition], sides: tuple[int, int]) -> Rows:
    """A row of zeros for these conditions, and that they are dropped."""
    if needed := [condition.name for condition in missing if condition.drop_rate == 0]:
        raise UserError(f"this model never learned to do without its {needed[0]}: give one an image")
    zeros = {condition.name: condition.example(1, sides) for condition in missing}
    return zeros | ({"drop": {name: np.ones(1, bool) for name in zeros}} if zeros else {})


def _worst(scale: np.ndarray, wrong: np.ndarray) -> float:
    return float(scale[wrong][0])


def _taken(values: Any, indices: np.ndarray) -> Any:
    """The values of the images of these numbers, in turn."""
    if isinstance(values, dict):
        return {name: _taken(part, indices) for name, part in values.items()}
    return values[indices % len(values)]


def _length(values: Any) -> int:
    return len(next(iter(values.values())) if isinstance(values, dict) else values)
