"""An adapter of a frozen UNet to a condition image (ControlNet; Zhang et al., arXiv 2302.05543)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from jdiff.networks.layers import Conv, Dtype

ADAPTER, ENCODER = "adapter", "encoder"  # the scope of an adapter in its network, and of its copy of the encoder in it
ADAPTER_SCALE = "adapter_scale"  # in cond


class Adapter(nn.Module):
    """(x, c_noise, cond) -> the joints: what is added to the UNet's skip connections and to what its middle gives.

        z_i(encoder(x, c_noise, cond; h_0 + z(SiLU(conv(image))))_i) * s

    encoder: the UNet's way down and middle with `joints`, trained from a copy of its weights; the convolutions z are
    zero at initialisation, so that training starts at the frozen network. s [B]: cond["adapter_scale"], 1 where it is
    not given; 0 where the image is dropped, which leaves the frozen network alone.
    """

    encoder: nn.Module
    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], c_noise: Float[Array, " b"], cond: Mapping[str, Any], *, train: bool = False
    ) -> list[Array]:
        hint = Conv(self.channels, dtype=self.dtype, name="hint")(cond["image"].astype(self.dtype))
        hint = Conv(self.channels, zero_init=True, dtype=self.dtype, name="hint_out")(nn.silu(hint))
        scale = cond.get(ADAPTER_SCALE, jnp.ones(len(x)))
        dropped = cond.get("drop", {}).get("image")
        if dropped is not None:
            scale = jnp.where(dropped, 0.0, scale)
        joints = self.encoder(x, c_noise, cond, train=train, hint=hint)
        return [scale[:, None, None, None].astype(joint.dtype) * joint for joint in joints]


def with_copies(new: PyTree, network: PyTree) -> PyTree:
    """`new`, an adapter's parameters, with those of `network` in place of all that its encoder has like them."""
    flat, theirs = flatten_dict(new), flatten_dict(network)
    for path, leaf in flat.items():
        found = theirs.get(path[1:]) if path[0] == ENCODER else None
        if found is not None and found.shape == leaf.shape:
            flat[path] = jnp.array(found)  # of its own, as no buffer can be given away twice
    return unflatten_dict(flat)
