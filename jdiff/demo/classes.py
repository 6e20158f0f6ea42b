"""The page's field of classes."""

from typing import Any

import gradio as gr

from jdiff.conditions.label import Label
from jdiff.from_config.conditions import label as label_condition
from jdiff.model import Model
from jdiff.request import TO_CLASSES

AS_IN_RUN = "as in the run"
IN_TURN = "each in turn"
NOT_GIVEN = "not given"


class Classes:
    """What a visitor may say of classes. label: those that the model is conditioned on; of a model that is not, those
    to which a classifier guides it, by_guidance; None where there are neither.
    """

    def __init__(self, model: Model):
        config = model.config
        self._listed = bool(config.sample.labels or config.sample.texts)
        self.label = next((one for one in model.conditions if isinstance(one, Label)), None)
        self.by_guidance = not self.label and config.guidance.method == TO_CLASSES and bool(config.data.class_names)
        if self.by_guidance:
            self.label = label_condition(config, 0.0)
        self._without: tuple[str, ...] = ()  # the choice to give no class
        if config.sample.labels:
            self._without = (AS_IN_RUN,)
        elif self.label and self.label.drop_rate and _others(model):
            self._without = (NOT_GIVEN,)

    def field(self) -> gr.Dropdown:
        """What a visitor chooses from; several classes of an image where the model knows several."""
        assert self.label
        several, name = self.label.per_image > 1, "class, by guidance" if self.by_guidance else "class"
        classes = list(self.label.class_names)
        if several:
            return gr.Dropdown(classes, multiselect=True, label=name)
        choices = [*self._without, IN_TURN, *classes]
        return gr.Dropdown(choices, value=AS_IN_RUN if AS_IN_RUN in choices else IN_TURN, label=name)

    def read(self, chosen: str | list[str] | None, num_images: int, *, beside: bool) -> tuple[Any, ...]:
        """The labels of a request of so many images; () to give none. beside: whether other conditions are given."""
        if not chosen or chosen in self._without:
            return ()
        if isinstance(chosen, list):
            return (tuple(chosen),)
        if chosen != IN_TURN:
            return (chosen,)
        if not (beside or self._listed):
            return ()  # the model then takes each in turn itself, or, where it is given more, its run's examples
        assert self.label
        return tuple(self.label.class_names[number] for number in self.label.every_class()[:num_images])


def _others(model: Model) -> bool:
    """Whether the model is given more than a class, but for what the images' shape tells."""
    sides = tuple(model.config.data.shape[:2])
    return any(one.of_shape(sides) is None for one in model.conditions if not isinstance(one, Label))
