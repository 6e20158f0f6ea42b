"""In which order training images come."""

import numpy as np
from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.data import buckets
from jdiff.data.order import Order
from jdiff.data.sources import Source
from jdiff.data.sources.prepared import sizes_of
from jdiff.data.sources.wrapped import column, labels

CLASS = "class"  # of data.balance


def order(config: ConfigDict, source: Source) -> Order | None:
    """The order of a resolved config's training images; None where every image comes once an epoch, whatever its shape
    and class.
    """
    data = config.data
    if not (data.shapes or data.balance):
        return None
    groups = _balanced(config, source) if data.balance else np.zeros(len(source), np.int64)
    power, size = data.balance_power if data.balance else 0.0, config.train.batch_size
    return Order(shape_numbers(config, source), groups, power=power, batch_size=size, seed=config.seed)


def shape_numbers(config: ConfigDict, source: Source) -> np.ndarray:
    """int64 [n]: which of data.shapes each image is trained in; 0 where there is one shape."""
    shapes = config.data.shapes
    return buckets.nearest(sizes_of(source), shapes) if shapes else np.zeros(len(source), np.int64)


def _balanced(config: ConfigDict, source: Source) -> np.ndarray:
    """What is balanced, of each image: [n]."""
    name = config.data.balance
    if name == CLASS:
        if not source.class_names:
            raise UserError(f"data.balance='class': data.name={config.data.name!r} has no classes; leave it out")
        if source.labels_per_image > 1:
            raise UserError("data.balance='class' goes with one label an image, and these images have several")
        return labels(source)
    values = column(source, name)
    if values is None:
        known = ", ".join(("class", *source.scalar_names)) if source.class_names else ", ".join(source.scalar_names)
        raise UserError(
            f"data.balance={name!r}: data.name={config.data.name!r} does not tell this column without reading every "
            f"record; it tells {known or 'none'}"
        )
    return values
