"""What images are asked for: a row of conditions for each, from what a call gives, the config, or a run's examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.pictures import checked

# In a run's folder: the conditions of some images, which samples take unless others are given.
EXAMPLES = "examples.npz"

Rows = dict[str, Any]  # name -> arrays [n, ...]


class Conditions:
    """The conditions that a model of this config can be given.

    workdir: the run's folder, which has the tokenizer of its texts and its examples.
    """

    def __init__(self, config: ConfigDict, workdir: Path | None):
        self._config, self._workdir = config, workdir
        self._names = tuple(config.model.conditions)
        self._encoder: Any = None
        self._saved: Rows | None = None

    def rows(
        self,
        wanted: ConfigDict,
        *,
        labels: Any = None,
        texts: Any = None,
        images: Any = None,
        scalars: Any = None,
    ) -> Rows:
        """cond for wanted.sample.num_images images: each condition in turn where fewer are given.

        Given some conditions of a model that has several, the others are dropped. Given none at all, classes come in
        turn, or, of a model that is given more than a label, the conditions of the run's examples.
        Raises UserError where a condition is unknown to the model, of a wrong form, or needed and missing.
        """
        sample, count = wanted.sample, wanted.sample.num_images
        labels = list(sample.labels) or None if labels is None else labels
        texts = list(sample.texts) or None if texts is None else texts
        given = {"label": labels, "text": texts, "image": images, "scalars": scalars}
        given = {name: values for name, values in given.items() if values is not None}
        to_class = wanted.guidance.method == "classifier" and from_config.is_guided(wanted)
        reads_label = "label" in self._names or to_class
        for name in given:
            if name not in self._names and not (name == "label" and reads_label):
                what = {"label": "labels", "text": "texts", "image": "condition images"}.get(name, name)
                raise UserError(
                    f"this model was trained without {what}; it takes {', '.join(self._names) or 'nothing'}"
                )
        made = {name: getattr(self, f"_{name}")(values) for name, values in given.items()}
        if not made and set(self._names) - {"label"}:
            made = {name: self.examples()[name] for name in self._names}
            made |= {"image": _floats(made["image"])} if "image" in made else {}
        elif not made and reads_label:
            made["label"] = from_config.label_rows(range(len(self._config.data.class_names)), self._config)
        if to_class and "label" not in made:
            raise UserError("guidance.method='classifier' guides to a class: say to which by labels")
        for name, values in made.items():
            if not _length(values):
                raise UserError(f"{name}: there are none; give one an image, or fewer, which are taken in turn")
        made = {name: _in_turn(values, count) for name, values in made.items()}
        return made | self._dropped([name for name in self._names if name not in made], count)

    def labels(self, wanted: ConfigDict) -> np.ndarray | None:
        """The label of each image where the model knows labels and none is dropped."""
        rows = self.rows(wanted)
        return None if "label" in rows.get("drop", {}) else rows.get("label")

    def texts(self, wanted: ConfigDict) -> list[str] | None:
        """The text of each image, where the model reads texts and none is dropped."""
        dropped = wanted.sample.labels and not wanted.sample.texts
        if "text" not in self._names or dropped:
            return None
        texts = list(wanted.sample.texts) or [str(text) for text in self.examples()["captions"]]
        return [texts[i % len(texts)] for i in range(wanted.sample.num_images)]

    def examples(self) -> Rows:
        """The run's own examples: conditions of held-out images (or, where there are none, of training images)."""
        if self._saved is None:
            file = (self._workdir or Path()) / EXAMPLES
            try:
                with np.load(file) as arrays:
                    self._saved = unflatten_dict(dict(arrays), sep="/")
            except (OSError, ValueError, EOFError, BadZipFile) as error:
                asked = ", ".join(self._names)
                raise UserError(f"say what to draw ({asked}): this run has no examples, cannot read {file}") from error
        return self._saved

    def _label(self, labels: Any) -> np.ndarray:
        return from_config.label_rows(labels, self._config)

    def _text(self, texts: Any) -> Any:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError('texts must be strings, one an image or fewer, as in texts=["a red heart"]')
        if self._encoder is None:
            self._encoder = from_config.text_encoder(self._config, self._workdir or Path())
        return self._encoder(list(texts))

    def _image(self, images: Any) -> np.ndarray:
        """Condition images as they are seen, no view being taken of them: uint8 or floats in [-1, 1], or of the values
        that the data's pictures have.
        """
        shape, values = self._example("image").shape[1:], from_config.given(self._config).seen.range
        return _floats(checked(images, shape, "condition images", values))

    def _scalars(self, scalars: Any) -> np.ndarray:
        names = self._config.condition.scalars.names
        try:
            values = np.asarray(scalars, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"scalars are no array of numbers: {error}") from error
        if values.ndim != 2 or values.shape[1] != len(names) or not np.isfinite(values).all():
            raise UserError(
                f"scalars are {list(values.shape)}; they must be finite, [n, {len(names)}]: {', '.join(names)}"
            )
        return values

    def _example(self, name: str) -> Any:
        return from_config.view(self._config, train=False).example(1)["cond"][name]

    def _dropped(self, names: list[str], count: int) -> Rows:
        """Zeros for these conditions, and that they are dropped."""
        rates = dict(zip(self._names, from_config.drop_rates(self._config), strict=True))
        if needed := [name for name in names if rates[name] == 0]:
            raise UserError(f"this model never learned to do without its {needed[0]}: give one an image")
        zeros = {name: self._example(name) for name in names}
        zeros |= {"image": _floats(zeros["image"])} if "image" in zeros else {}
        zeros = {name: _in_turn(values, count) for name, values in zeros.items()}
        return zeros | ({"drop": {name: np.ones(count, bool) for name in names}} if names else {})


def save_examples(workdir: Path, cond: Rows, captions: Sequence[str]) -> None:
    """Raises OSError where the folder cannot be written."""
    arrays = flatten_dict({**cond, **({"captions": np.array(captions)} if captions else {})}, sep="/")
    np.savez(workdir / EXAMPLES, **arrays)


def _floats(images: np.ndarray) -> np.ndarray:
    """As floats always: other programs are compiled for other types."""
    return images.astype(np.float32) / 127.5 - 1 if images.dtype == np.uint8 else images


def _length(values: Any) -> int:
    return len(next(iter(values.values())) if isinstance(values, dict) else values)


def _in_turn(values: Any, count: int) -> Any:
    if isinstance(values, dict):
        return {name: _in_turn(part, count) for name, part in values.items()}
    return values[np.arange(count) % len(values)]
