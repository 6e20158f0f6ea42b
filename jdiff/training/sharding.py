"""Where arrays live: a mesh of devices with the axes "data" and "fsdp".

A batch is split over all devices, along both axes. Parameters, and all that has their shape, are split over "fsdp"
along one of their own axes, and repeated over "data": fsdp = 1 is plain data parallelism.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jdiff.common.errors import UserError

SMALLEST_SPLIT = 2**12  # elements; splitting smaller arrays costs more than it saves


def make_mesh(*, fsdp: int = 1) -> Mesh:
    """All devices as a mesh [devices / fsdp, fsdp]; raises UserError where fsdp does not divide their number."""
    devices = jax.device_count()
    if fsdp < 1 or devices % fsdp:
        raise UserError(f"machine.fsdp={fsdp} does not divide the {devices} devices")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh: Mesh, rows: int | None = None) -> NamedSharding:
    """Rows split over all devices; a batch whose `rows` do not divide so is repeated on each."""
    if rows is not None and rows % mesh.size:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def of_state(mesh: Mesh, state: PyTree) -> PyTree:
    """A sharding for each array (or ShapeDtypeStruct): along its largest axis that "fsdp" divides, else repeated."""

    def of_leaf(leaf: Any) -> NamedSharding:
        shards = mesh.shape["fsdp"]
        axes = [axis for axis, side in enumerate(leaf.shape) if side % shards == 0]
        if shards == 1 or not axes or np.prod(leaf.shape) < SMALLEST_SPLIT:
            return replicated(mesh)
        split = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*("fsdp" if axis == split else None for axis in range(split + 1))))

    return jax.tree.map(of_leaf, state)


def abstract(mesh: Mesh, state: PyTree) -> PyTree:
    """Shapes and dtypes of a state with its shardings, as restoring a checkpoint wants them."""
    put = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(put, state, of_state(mesh, state))


def put_batch(mesh: Mesh, local: PyTree) -> PyTree:
    """This process's rows -> global arrays, the rows of process 0 first."""

    def put(rows: np.ndarray) -> jax.Array:
        sharding = of_batch(mesh, len(rows) * jax.process_count())
        return jax.make_array_from_process_local_data(sharding, rows)

    return jax.tree.map(put, local)


def on_devices(mesh: Mesh, batches: Iterator[PyTree]) -> Iterator[PyTree]:
    """Global arrays of each process's rows, one batch ahead: its transfer overlaps the step before it."""
    ahead = put_batch(mesh, next(batches))
    for batch in batches:
        now, ahead = ahead, put_batch(mesh, batch)
        yield now


def put_replicated(mesh: Mesh, tree: PyTree) -> PyTree:
    """The same values, whole, on every device."""
    return jax.device_put(tree, replicated(mesh))
