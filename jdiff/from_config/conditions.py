"""What the images that are asked for are conditioned on."""

from collections.abc import Iterable

import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.config import nearest


def drop_rates(config: ConfigDict) -> tuple[float, ...]:
    """How often each of model.conditions is dropped in training."""
    own = [config.condition[name].drop_rate for name in config.model.conditions]
    return tuple(config.model.drop_rate if rate is None else rate for rate in own)


def label_rows(labels: Iterable, config: ConfigDict, name: str = "labels") -> np.ndarray:
    """Labels as numbers, int32 [n], or [n, k] (-1 for none) where an image may have several: `labels` holds numbers,
    names of classes, or sequences of these. Raises UserError for one that is unknown.
    """
    classes, most = config.data.class_names, config.data.labels_per_image
    labels = labels.tolist() if hasattr(labels, "tolist") else labels  # of NumPy or JAX
    if isinstance(labels, str) or not isinstance(labels, Iterable):
        raise UserError(f"{name}={labels!r} must be a sequence of labels, as in labels=[3, 3, 5]")

    def number(label: object) -> int:
        if isinstance(label, str):
            if label not in classes:
                raise UserError(
                    f"{name} holds {label!r}, no name of a class{nearest(label, classes) or _some(classes)}"
                )
            return classes.index(label)
        if not isinstance(label, (int, np.integer)) or isinstance(label, bool):
            raise UserError(
                f"{name} must hold whole numbers or names of classes, as in labels=[3, 3, 5]; not {label!r}"
            )
        if label not in range(len(classes)):
            raise UserError(f"{name} holds {label!r}; labels are 0..{len(classes) - 1}")
        return int(label)

    if most == 1:
        return np.array([number(label) for label in labels], np.int32)
    rows = np.full((0, most), -1, np.int32)
    for label in labels:
        alone = isinstance(label, str) or not isinstance(label, Iterable)
        several = [number(each) for each in ([label] if alone else label)]
        if len(several) > most:
            raise UserError(f"{name} holds {len(several)} labels for an image; this model knows up to {most}")
        rows = np.concatenate([rows, [several + [-1] * (most - len(several))]]).astype(np.int32)
    return rows


def check_conditions(config: ConfigDict) -> None:
    """Raises UserError where config.sample asks for conditions that the model cannot be given."""
    sample, known = config.sample, config.model.conditions
    if sample.labels and "label" not in known and config.guidance.method != "classifier":
        raise UserError(f"sample.labels={sample.labels}: this model was trained without labels")
    if sample.texts and "text" not in known:
        raise UserError(f"sample.texts={sample.texts}: this model was trained without texts")
    label_rows(sample.labels, config, "sample.labels")


def _some(classes: tuple[str, ...]) -> str:
    return f"; there are {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
