"""Shardings on a mesh of devices with the axes "data" and "fsdp".

A batch is sharded over both axes. Parameters, their averages and the optimizer's moments are sharded over "fsdp" and
replicated over "data"; fsdp = 1 is plain data parallelism.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jdiff.common.errors import UserError

MIN_SIZE_TO_SHARD = 2**12  # elements; sharding smaller arrays costs more than it saves


def make_mesh(*, fsdp: int = 1) -> Mesh:
    """All devices as a mesh [devices / fsdp, fsdp]. Raises UserError where fsdp does not divide their number."""
    devices = jax.device_count()
    if devices % fsdp:
        raise UserError(f"machine.fsdp={fsdp} does not divide the {devices} devices")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def of_batch(mesh: Mesh, rows: int | None = None) -> NamedSharding:
    """Rows sharded over all devices; replicated where the number of devices does not divide `rows`."""
    if rows is not None and rows % mesh.size:
        return replicated(mesh)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def of_state(mesh: Mesh, state: PyTree) -> PyTree:
    """A sharding for each array or ShapeDtypeStruct: over "fsdp" along the largest axis that it divides, else
    replicated.
    """

    def of_leaf(leaf: Any) -> NamedSharding:
        shards = mesh.shape["fsdp"]
        axes = [axis for axis, side in enumerate(leaf.shape) if side % shards == 0]
        if shards == 1 or not axes or np.prod(leaf.shape) < MIN_SIZE_TO_SHARD:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))

    return jax.tree.map(of_leaf, state)


def abstract(mesh: Mesh, state: PyTree) -> PyTree:
    """A state's shapes, dtypes and shardings, into which a checkpoint is restored."""
    put = lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)  # noqa: E731
    return jax.tree.map(put, state, of_state(mesh, state))


def put_batch(mesh: Mesh, local: PyTree) -> PyTree:
    """This process's rows of a batch -> global arrays, with the rows of process 0 first."""

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
    """The arrays of a tree, whole, on every device."""
    return jax.device_put(tree, replicated(mesh))


def whole(array: jax.Array) -> np.ndarray:
    """All rows, on every process, which must all call it."""
    if jax.process_count() > 1:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def all_processes(mine: bool) -> bool:
    """Whether it is so on every process, which must all ask."""
    return mine if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(mine)).all())


def of_first_process(tree: PyTree) -> PyTree:
    """The first process's arrays, on every process, which must all call it with arrays of the same shapes."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)
