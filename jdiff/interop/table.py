"""A table of weights: which of their tensors is which of our arrays, and how one becomes the other.

One table serves both ways. Torch keeps linear layers as [out, in] and convolutions as [out, in, h, w]; ours are [in,
out] and [h, w, in, out].
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

Turn = Callable[[np.ndarray], np.ndarray]
Form = Literal["same", "dense", "conv", "point", "with_null", "halves"]


def _halves(kernel: np.ndarray) -> np.ndarray:
    """[first half; second half] of the rows -> [second; first]: sin | cos against our cos | sin."""
    return np.roll(kernel, len(kernel) // 2, axis=0)


# form -> (theirs to ours, ours to theirs)
FORMS: dict[str, tuple[Turn, Turn]] = {
    "same": (lambda w: w, lambda w: w),
    "dense": (lambda w: w.T, lambda w: w.T),
    "conv": (lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)),
    # A 1x1 convolution there, a linear layer here.
    "point": (lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None]),
    # A row a class there, and one more here: the null, zeros until it is trained.
    "with_null": (lambda w: np.concatenate([w, np.zeros_like(w[:1])]), lambda w: w[:-1]),
    # A linear layer on [sin, cos] there, on [cos, sin] here.
    "halves": (lambda w: _halves(w.T), lambda w: _halves(w).T),
}


@dataclass(frozen=True)
class Entry:
    """Their tensor `theirs` is our array `ours`, a path such as "down0_0/conv_0/kernel".

    theirs: None where they have no such tensor; ours is zeros then.
    """

    theirs: str | None
    ours: str
    form: Form = "same"


def layer(theirs: str, ours: str, form: Form, *, bias: bool = True) -> Iterator[Entry]:
    """A linear layer or convolution: weight and bias."""
    yield Entry(f"{theirs}.weight", f"{ours}/kernel", form)
    if bias:
        yield Entry(f"{theirs}.bias", f"{ours}/bias")


def norm(theirs: str, ours: str) -> Iterator[Entry]:
    yield Entry(f"{theirs}.weight", f"{ours}/scale")
    yield Entry(f"{theirs}.bias", f"{ours}/bias")


def shapes_of(params: PyTree) -> dict[str, tuple[int, ...]]:
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(params).items()}


def inward(tensors: Tensors, entries: Iterable[Entry], shapes: Mapping[str, tuple[int, ...]]) -> PyTree:
    """Our parameters, of these shapes by path, from their tensors.

    Raises UserError that names a tensor missing, of a wrong shape, or not known.
    """
    made, unknown = {}, set(tensors)
    for entry in entries:
        shape, (turn, _) = shapes[entry.ours], FORMS[entry.form]
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
        made[entry.ours] = jnp.asarray(turn(tensor))
        unknown.discard(entry.theirs)
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(f"the weights hold the tensor {min(unknown)}{more}, which their config.json has no layer for")
    if lacking := sorted(shapes.keys() - made.keys()):
        raise AssertionError(f"the table has no entry for our {lacking[0]}")
    return unflatten_dict({tuple(name.split("/")): array for name, array in made.items()})


def outward(params: PyTree, entries: Iterable[Entry]) -> Tensors:
    """Their tensors from our parameters."""
    arrays = {"/".join(path): np.asarray(leaf, np.float32) for path, leaf in flatten_dict(params).items()}
    return {entry.theirs: FORMS[entry.form][1](arrays[entry.ours]) for entry in entries if entry.theirs is not None}


def their_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that their tensor has where our array has `shape`."""
    return FORMS[entry.form][1](np.broadcast_to(np.float32(0), shape)).shape
