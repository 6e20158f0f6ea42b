"""From a file's tensors to a feature network's parameters, row by row."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jdiff.common.errors import UserError
from jdiff.interop.table import CONVERSIONS, Conversion, Entry, their_shape
from jdiff.interop.tensors import Tensors

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Row:
    """The name of their tensor, and the path of our array.

    theirs: None where they have no such tensor; ours is then ones. third: theirs is three of ours stacked (queries,
    keys, values), and ours is this one of them.
    """

    theirs: str | None
    ours: str
    conversion: Conversion = "same"
    third: int | None = None


def layer(theirs: str, ours: str, conversion: Conversion, *, third: int | None = None) -> Iterator[Row]:
    """The weight and bias of a linear layer or convolution."""
    yield Row(f"{theirs}.weight", f"{ours}/kernel", conversion, third)
    yield Row(f"{theirs}.bias", f"{ours}/bias", third=third)


def norm(theirs: str, ours: str) -> Iterator[Row]:
    """The scale and bias of a norm."""
    yield Row(f"{theirs}.weight", f"{ours}/scale")
    yield Row(f"{theirs}.bias", f"{ours}/bias")


def to_params(tensors: Tensors, rows: Iterable[Row], shapes: Shapes, unfit: str, ignored: tuple[str, ...]) -> PyTree:
    """Our parameters, of these shapes by path, from their tensors.

    unfit: the error's first words. ignored: beginnings and ends of the names of tensors that no row asks for. Raises
    UserError for the first tensor that is missing, of a wrong shape, not finite, or unknown.
    """
    made, unknown = {}, {name for name in tensors if not (name.startswith(ignored) or name.endswith(ignored))}
    for row in rows:
        shape = shapes[row.ours]
        if row.theirs is None:
            made[row.ours] = jnp.ones(shape)
            continue
        if row.theirs not in tensors:
            raise UserError(f"{unfit}: it lacks the tensor {row.theirs}")
        tensor, expected = tensors[row.theirs], their_shape(Entry(row.theirs, row.ours, row.conversion), shape)
        count = expected[0]
        if row.third is not None:
            expected = (3 * count, *expected[1:])
        if tensor.shape != expected:
            raise UserError(f"{unfit}: its tensor {row.theirs} is {list(tensor.shape)} and should be {list(expected)}")
        if not np.isfinite(tensor).all():
            raise UserError(f"{unfit}: its tensor {row.theirs} holds values that are not finite")
        part = tensor if row.third is None else tensor[row.third * count : (row.third + 1) * count]
        made[row.ours] = jnp.asarray(CONVERSIONS[row.conversion][0](part))
        unknown.discard(row.theirs)
    if unknown:
        raise UserError(f"{unfit}: it has no place for the tensor {min(unknown)}")
    if lacking := sorted(shapes.keys() - made.keys()):
        raise AssertionError(f"no row for our {lacking[0]}")
    return unflatten_dict({tuple(name.split("/")): array for name, array in made.items()})


def sha256(params: PyTree) -> str:
    """sha256 of parameters: of each array by path its name, shape and float32 values, so that it is the same whatever
    file or library they came from.
    """
    digest = hashlib.sha256()
    for path, array in sorted(flatten_dict(jax.device_get(params)).items()):
        digest.update(f"{'/'.join(path)}{list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array, "<f4").tobytes())
    return digest.hexdigest()
