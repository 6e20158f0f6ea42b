"""Tables of weights: pairs of a torch tensor ("theirs") and a jdiff array ("ours"), for import and for export.

Torch keeps linear layers as [out, in] and convolutions as [out, in, h, w]; ours are [in, out] and [h, w, in, out].
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from jdiff.common.errors import UserError
from jdiff.interop.tensors import Tensors

Convert = Callable[[np.ndarray], np.ndarray]
Conversion = Literal["same", "dense", "conv", "conv_1x1", "with_null", "sin_cos"]


def _swap_halves(kernel: np.ndarray) -> np.ndarray:
    """[first half; second half] of the rows -> [second half; first half]."""
    return np.roll(kernel, len(kernel) // 2, axis=0)


# conversion -> (theirs to ours, ours to theirs)
CONVERSIONS: dict[str, tuple[Convert, Convert]] = {
    "same": (lambda w: w, lambda w: w),
    "dense": (lambda w: w.T, lambda w: w.T),
    "conv": (lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
    # Theirs is a 1x1 convolution, ours a linear layer.
    "conv_1x1": (lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None]),
    # Ours has one more row, the null, zeros until it is trained.
    "with_null": (lambda w: np.concatenate([w, np.zeros_like(w[:1])]), lambda w: w[:-1]),
    # Theirs is a linear layer on [sin, cos], ours on [cos, sin].
    "sin_cos": (lambda w: _swap_halves(w.T), lambda w: _swap_halves(w).T),
}


@dataclass(frozen=True)
class Entry:
    """The name of their tensor, and the path of our array, such as "down0_0/conv_0/kernel", which has the same values.

    theirs: None where they have no such tensor; ours is then zeros. shape: of an array that is none of our network's
    parameters, such as a codebook.
    """

    theirs: str | None
    ours: str
    conversion: Conversion = "same"
    shape: tuple[int, ...] | None = None


def layer(theirs: str, ours: str, conversion: Conversion, *, bias: bool = True) -> Iterator[Entry]:
    """The weight and bias of a linear layer or convolution."""
    yield Entry(f"{theirs}.weight", f"{ours}/kernel", conversion)
    if bias:
        yield Entry(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Iterator[Entry]:
    """The scale and bias of a norm."""
    yield Entry(f"{theirs}.weight", f"{ours}/scale")
    yield Entry(f"{theirs}.bias", f"{ours}/bias")


def shapes_of(params: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each array by path."""
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()}


def to_params(tensors: Tensors, entries: Iterable[Entry], shapes: Mapping[str, tuple[int, ...]]) -> PyTree:
    """Our parameters, of these shapes by path, from their tensors.

    Raises UserError for a tensor that is missing, unknown, or of a wrong shape.
    """
    made, unknown = {}, set(tensors)
    for entry in entries:
        shape, (convert, _) = shapes[entry.ours], CONVERSIONS[entry.conversion]
        if entry.theirs is None:
            made[entry.ours] = jnp.zeros(shape)
            continue
        if entry.theirs not in tensors:
            raise UserError(f"the weights lack the tensor {entry.theirs}, which their config.json asks for")
        tensor, expected = tensors[entry.theirs], their_shape(entry, shape)
        if tensor.shape != expected:
            raise UserError(
                f"the tensor {entry.theirs} is {list(tensor.shape)}; by their config.json it must be {list(expected)}"
            )
        made[entry.ours] = jnp.asarray(convert(tensor))
        unknown.discard(entry.theirs)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(f"the weights hold the tensor {min(unknown)}{more}, which their config.json has no layer for")
    if lacking := sorted(shapes.keys() - made.keys()):
        raise AssertionError(f"the table has no entry for our {lacking[0]}")
    return unflatten_dict({tuple(name.split("/")): array for name, array in made.items()})


def to_tensors(params: PyTree, entries: Iterable[Entry]) -> Tensors:
    """Their tensors from our parameters."""
    arrays = {"/".join(path): np.asarray(leaf, np.float32) for path, leaf in flatten_dict(params).items()}
    return {
        entry.theirs: CONVERSIONS[entry.conversion][1](arrays[entry.ours])
        for entry in entries
        if entry.theirs is not None
    }


def their_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that their tensor has where our array has `shape`."""
    return CONVERSIONS[entry.conversion][1](np.broadcast_to(np.float32(0), shape)).shape
