"""DINOv2's vision transformers (Oquab et al., arXiv 2304.07193), without and with registers (Darcet et al., arXiv
2309.16588).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.features.resize import antialiased_bicubic, apply_matrix, bicubic
from jdiff.networks.features.space import IMAGENET, Input
from jdiff.networks.features.vit import Block, PatchEmbedding, layer_norm

_OFFSET, _SCALE = IMAGENET
DGM_EVAL = Input(resize="pil_bicubic", size=224, offset=_OFFSET, scale=_SCALE)
EDM2 = Input(resize="torch_bicubic", size=224, offset=_OFFSET, scale=_SCALE)
TORCH_FIDELITY = Input(resize="tf1", size=224, offset=_OFFSET, scale=_SCALE)


class DINOv2(nn.Module):
    """Images [B, H, W, 3], standardised by ImageNet's mean and deviation -> class tokens [B, features], float32.

    Tokens are the class, `registers` that are thrown away, and one a patch; the sides are multiples of patch_size. The
    positions of grid x grid patches are resized to other numbers of patches by bicubic interpolation, antialiased or
    not. position_offset: added to the number of patches before it is divided by `grid` to give the scale, 0.1 in the
    published code of the networks without registers (transformers has 0).
    """

    features: int
    depth: int
    heads: int
    registers: int = 0
    patch_size: int = 14
    grid: int = 37
    antialias: bool = False
    position_offset: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        batch, height, width, _ = x.shape
        init = nn.initializers.normal(0.02)
        class_token = self.param("class_token", init, (1, 1, self.features))
        positions = self.param("positions", init, (1, 1 + self.grid**2, self.features))
        with jax.default_matmul_precision("highest"):
            patches = PatchEmbedding(self.features, self.patch_size, name="patches")(x)
            patches += self._resized(positions[:, 1:], height // self.patch_size, width // self.patch_size)
            tokens = [class_token + positions[:, :1], patches]
            if self.registers:
                tokens.insert(1, self.param("registers", init, (1, self.registers, self.features)))
            h = jnp.concatenate([jnp.broadcast_to(t, (batch, *t.shape[1:])) for t in tokens], axis=1)
            for index in range(self.depth):
                h = Block(self.heads, 1e-6, "gelu", layer_scale=True, name=f"block_{index}")(h)
            return layer_norm(1e-6, "norm")(h[:, 0])

    def _resized(self, positions: Array, rows: int, columns: int) -> Array:
        if rows == columns == self.grid:
            return positions
        grid = positions.reshape(self.grid, self.grid, self.features)
        for axis, size in enumerate((rows, columns)):
            if self.antialias:
                taps = antialiased_bicubic(self.grid, size)
            else:
                taps = bicubic(self.grid, size, self.grid / (size + self.position_offset))
            grid = apply_matrix(grid, axis, taps.matrix())
        return grid.reshape(1, rows * columns, self.features)


def _with_registers(features: int, depth: int, heads: int) -> DINOv2:
    return DINOv2(features, depth, heads, registers=4, antialias=True, position_offset=0.0)


NETWORKS = {
    "dinov2_vits14": DINOv2(384, 12, 6),
    "dinov2_vitb14": DINOv2(768, 12, 12),
    "dinov2_vitl14": DINOv2(1024, 24, 16),
    "dinov2_vits14_reg": _with_registers(384, 12, 6),
    "dinov2_vitb14_reg": _with_registers(768, 12, 12),
    "dinov2_vitl14_reg": _with_registers(1024, 24, 16),
}
