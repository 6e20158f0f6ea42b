"""CLIP's vision transformers with their projection (Radford et al., arXiv 2103.00020)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdiff.networks.features.space import Input, of_unit_range
from jdiff.networks.features.vit import Block, PatchEmbedding, layer_norm
from jdiff.networks.layers import Dense

_OFFSET, _SCALE = of_unit_range((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class CLIPVision(nn.Module):
    """Images [B, side, side, 3], standardised by CLIP's mean and deviation -> embeddings [B, projection], float32, not
    normalised (CMMD and CLIP scores divide them by their length).

    side = grid * patch_size.
    """

    features: int
    depth: int
    heads: int
    patch_size: int
    grid: int
    projection: int

    @property
    def side(self) -> int:
        return self.grid * self.patch_size

    @nn.compact
    def __call__(self, x: Float[Array, "b s s 3"]) -> Float[Array, "b p"]:
        if x.shape[1] != self.side:
            raise ValueError(f"this network reads images of {self.side} x {self.side}, not of {x.shape[1]}")
        init = nn.initializers.normal(0.02)
        class_token = self.param("class_token", init, (self.features,))
        positions = self.param("positions", init, (1 + self.grid**2, self.features))
        with jax.default_matmul_precision("highest"):
            patches = PatchEmbedding(self.features, self.patch_size, use_bias=False, name="patches")(x)
            classes = jnp.broadcast_to(class_token, (x.shape[0], 1, self.features))
            h = layer_norm(1e-5, "norm_before")(jnp.concatenate([classes, patches], axis=1) + positions)
            for index in range(self.depth):
                h = Block(self.heads, 1e-5, "quick_gelu", layer_scale=False, name=f"block_{index}")(h)
            return Dense(self.projection, use_bias=False, name="projection")(layer_norm(1e-5, "norm")(h[:, 0]))


def cmmd(network: CLIPVision) -> Input:
    """CMMD's input (Jayasumana et al., arXiv 2401.09603): the square in the middle, by Pillow's bicubic."""
    return Input(resize="pil_bicubic", size=network.side, offset=_OFFSET, scale=_SCALE, crop=True)


NETWORKS = {
    "clip-vit-base-patch32": CLIPVision(768, 12, 12, patch_size=32, grid=7, projection=512),
    "clip-vit-large-patch14": CLIPVision(1024, 24, 16, patch_size=14, grid=16, projection=768),
    "clip-vit-large-patch14-336": CLIPVision(1024, 24, 16, patch_size=14, grid=24, projection=768),
}
