"""What every drawing is asked for by: the fields above the tabs, and what a visitor has set them to."""

import json
import math
from pathlib import Path
from typing import Any

import gradio as gr

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.conditions.scalars import Scalars
from jdiff.conditions.text import Text
from jdiff.demo.asked import Asked, Limits
from jdiff.demo.classes import AS_IN_RUN, NOT_GIVEN, Classes
from jdiff.from_config import presets
from jdiff.model import Model
from jdiff.request import TO_CLASSES, changes

MOST_TEXT = 1_000  # characters
BY_HAND = "by hand"


class Controls:
    """What every drawing is asked for by. Its widgets stand above the tabs; `read` makes of their values an Asked."""

    def __init__(self, model: Model, limits: Limits):
        self.model, self.limits = model, limits
        config, self._classes = model.config, Classes(model)
        self._widgets: dict[str, Any] = {}
        scale, unguided = config.sample.guidance_scale, 0.0 if config.guidance.method == TO_CLASSES else 1.0
        self._usual_scale = unguided if scale is None else float(scale)
        with gr.Row():
            if self._classes.label:
                self._widgets["labels"] = self._classes.field()
            if any(isinstance(condition, Text) for condition in model.conditions):
                self._widgets["texts"] = gr.Textbox(
                    label="text", placeholder="what the images show", max_length=MOST_TEXT
                )
            for name, usual in _usual_scalars(model).items():
                self._widgets[f"scalar {name}"] = gr.Number(usual, label=name, placeholder=NOT_GIVEN)
            self._widgets["num_images"] = gr.Number(
                min(4, limits.images), label=f"images (1 to {limits.images})", precision=0
            )
            self._widgets["seed"] = gr.Number(0, label="seed", precision=0)
        with gr.Row():
            if tuned := _presets(model):
                self._widgets["preset"] = gr.Dropdown([BY_HAND, *tuned], value=BY_HAND, label="network calls, tuned")
            self._widgets["sampler"] = gr.Dropdown(
                list(from_config.sampling.SAMPLERS), value=config.sample.sampler, label="sampler"
            )
            usual_steps = min(config.sample.steps, limits.steps)
            self._widgets["steps"] = gr.Number(usual_steps, label=f"steps (1 to {limits.steps})", precision=0)
            by_hand = config.sample.ladder == "by_hand"
            ladders = [ladder for ladder in from_config.sampling.LADDERS if ladder != "by_hand"]
            ladders = [AS_IN_RUN, *ladders] if by_hand else ladders
            ladder = AS_IN_RUN if by_hand else config.sample.ladder
            self._widgets["ladder"] = gr.Dropdown(ladders, value=ladder, label="ladder of noise levels")
            if model.conditions or from_config.helper_runs(config):
                self._widgets["guidance_scale"] = gr.Slider(
                    min(0, self._usual_scale),
                    max(10, self._usual_scale),
                    value=self._usual_scale,
                    step=0.1,
                    label=f"guidance ({unguided:g}: none)",
                )

    @property
    def widgets(self) -> list[Any]:
        return list(self._widgets.values())

    def read(self, values: tuple[Any, ...], view: str = "") -> Asked:
        """view: as of Asked. Raises UserError for what lies beyond the limits."""
        given = dict(zip(self._widgets, values, strict=True))
        config, num_images = self.model.config, whole(given["num_images"], "images")
        preset, scale = given.get("preset", BY_HAND), given.get("guidance_scale")
        if scale == self._usual_scale and config.sample.guidance_scale is None:
            scale = None  # of CFG++, 1 is guided
        conditions: dict[str, tuple[Any, ...]] = {}
        if text := (given.get("texts") or "").strip():
            if len(text) > MOST_TEXT:
                raise UserError(f"the text has {len(text):,} characters: this page takes {MOST_TEXT:,}")
            conditions["texts"] = (text,)
        if scalars := _scalars({name: value for name, value in given.items() if name.startswith("scalar ")}):
            conditions["scalars"] = (scalars,)
        guided = preset != BY_HAND or (scale is not None and changes(config, scale))
        if guided or not self._classes.by_guidance:
            beside = bool(conditions or view)
            if labels := self._classes.read(given.get("labels"), num_images, beside=beside):
                conditions["labels"] = labels
        return Asked(
            num_images=num_images,
            seed=whole(given["seed"], "seed"),
            sampler=given["sampler"],
            ladder="" if given["ladder"] == AS_IN_RUN else given["ladder"],
            steps=whole(given["steps"], "steps"),
            preset=0 if preset == BY_HAND else int(preset),
            guidance_scale=scale,
            conditions=conditions,
            view=view,
        ).within(self.limits)


def whole(value: Any, what: str) -> int:
    if value is None or not math.isfinite(value) or value != int(value):
        raise UserError(f"{what}: give a whole number")
    return int(value)


def _usual_scalars(model: Model) -> dict[str, float]:
    """The mean of each number in the training data, to a hundredth of its deviation; 0 where it is not known, as Gradio
    shows for an empty field before a visitor changes it.
    """
    scalars = next((one for one in model.conditions if isinstance(one, Scalars)), None)
    if scalars is None:
        return {}
    usual = dict.fromkeys(scalars.names, 0.0)
    for name, mean, std in zip(scalars.names, scalars.mean, scalars.std, strict=False):
        usual[name] = round(mean, 2 - math.floor(math.log10(std)))
    return usual


def _scalars(values: dict[str, float | None]) -> tuple[float, ...]:
    """The numbers of a model that is given some; () where all are left empty. Raises UserError where but some are."""
    given = tuple(value for value in values.values() if value is not None)
    if given and len(given) < len(values):
        empty = ", ".join(name.removeprefix("scalar ") for name, value in values.items() if value is None)
        raise UserError(f"{empty}: give a number, or none at all: the model takes them together")
    return given


def _presets(model: Model) -> list[str]:
    """The budgets that --mode=tune has found settings for."""
    file = (model.workdir or Path()) / presets.FOLDER / presets.FILE
    try:
        return sorted(json.loads(file.read_text("utf-8"))["budgets"], key=int)
    except (OSError, ValueError, KeyError, TypeError):
        return []
