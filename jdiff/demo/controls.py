"""What every drawing is asked for by: the fields above the tabs, and what a visitor has set them to."""

import json
import math
from pathlib import Path
from typing import Any

import gradio as gr

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.conditions.label import Label
from jdiff.demo.asked import Asked, Limits
from jdiff.from_config import presets
from jdiff.model import Model

MOST_TEXT = 1_000  # characters
AS_IN_RUN = "as in the run"
IN_TURN = "each in turn"
BY_HAND = "by hand"


class Controls:
    """What every drawing is asked for by. Its widgets stand above the tabs; `read` makes of their values an Asked."""

    def __init__(self, model: Model, limits: Limits):
        self.model, self.limits = model, limits
        config, conditions = model.config, {condition.name: condition for condition in model.conditions}
        self._widgets: dict[str, Any] = {}
        scale = config.sample.guidance_scale
        self._usual_scale = 1.0 if scale is None else float(scale)
        with gr.Row():
            label = conditions.get("label")
            if isinstance(label, Label):
                classes, several = list(label.class_names), label.per_image > 1
                self._widgets["labels"] = gr.Dropdown(
                    classes if several else [IN_TURN, *classes],
                    value=None if several else IN_TURN,
                    multiselect=several,
                    label="class",
                )
            if "text" in conditions:
                self._widgets["texts"] = gr.Textbox(
                    label="text", placeholder="what the images show", max_length=MOST_TEXT
                )
            for scalar in config.condition.scalars.names if "scalars" in conditions else ():
                self._widgets[f"scalar {scalar}"] = gr.Number(0, label=scalar)
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
            usual = AS_IN_RUN if by_hand else config.sample.ladder
            self._widgets["ladder"] = gr.Dropdown(ladders, value=usual, label="ladder of noise levels")
            if conditions:
                self._widgets["guidance_scale"] = gr.Slider(
                    min(0, self._usual_scale),
                    max(10, self._usual_scale),
                    value=self._usual_scale,
                    step=0.1,
                    label="guidance (1: none)",
                )

    @property
    def widgets(self) -> list[Any]:
        return list(self._widgets.values())

    def read(self, values: tuple[Any, ...]) -> Asked:
        """Raises UserError for what lies beyond the limits."""
        given = dict(zip(self._widgets, values, strict=True))
        conditions: dict[str, tuple[Any, ...]] = {}
        labels = given.get("labels")
        if labels and labels != IN_TURN:
            conditions["labels"] = (tuple(labels),) if isinstance(labels, list) else (labels,)
        if text := (given.get("texts") or "").strip():
            if len(text) > MOST_TEXT:
                raise UserError(f"the text has {len(text):,} characters: this page takes {MOST_TEXT:,}")
            conditions["texts"] = (text,)
        if scalars := tuple(value for name, value in given.items() if name.startswith("scalar ")):
            conditions["scalars"] = (scalars,)
        preset, scale = given.get("preset", BY_HAND), given.get("guidance_scale")
        if scale == self._usual_scale and self.model.config.sample.guidance_scale is None:
            scale = None  # of CFG++ and a classifier, 1 is guided
        return Asked(
            num_images=whole(given["num_images"], "images"),
            seed=whole(given["seed"], "seed"),
            sampler=given["sampler"],
            ladder="" if given["ladder"] == AS_IN_RUN else given["ladder"],
            steps=whole(given["steps"], "steps"),
            preset=0 if preset == BY_HAND else int(preset),
            guidance_scale=scale,
            conditions=conditions,
        ).within(self.limits)


def whole(value: Any, what: str) -> int:
    if value is None or not math.isfinite(value) or value != int(value):
        raise UserError(f"{what}: give a whole number")
    return int(value)


def _presets(model: Model) -> list[str]:
    """The budgets that --mode=tune has found settings for."""
    file = (model.workdir or Path()) / presets.FOLDER / presets.FILE
    try:
        return sorted(json.loads(file.read_text("utf-8"))["budgets"], key=int)
    except (OSError, ValueError, KeyError, TypeError):
        return []
