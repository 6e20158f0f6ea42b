"""Attention: softmax(q k^T / sqrt(d)) v (Vaswani et al., arXiv 1706.03762), over tokens or the pixels of a feature map.

SelfAttention        x + W attention(x, x)
CrossAttention       x + W attention(x, context)
SpatialTransformer   self-attention, cross-attention and a feed-forward layer over H x W tokens
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jdiff.networks.layers import Dense, Dtype, Norm, Style

_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)


def implementation(q: Float[Array, "b t n d"], k: Float[Array, "b s n d"], *, masked: bool) -> str:
    """ "cudnn" (flash attention: no T x S matrix in memory) on an NVIDIA GPU where its kernels take these arrays and
    have something to gain: Ampere or later, 16-bit floats, head width a multiple of 8 up to 128, even numbers of
    tokens, at least 64 of them, no mask. Else "xla".
    """
    allowed = not masked and not _PLAIN.get()
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    long_enough = q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0 and q.shape[1] >= 64
    return "cudnn" if allowed and half and fits and long_enough and _has_kernels() else "xla"


@contextlib.contextmanager
def forward_differentiable() -> Iterator[None]:
    """What is traced within can be differentiated forwards, which cuDNN's kernels cannot: attention is XLA's."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def _has_kernels() -> bool:
    if jax.default_backend() != "gpu":
        return False
    capability = jax.local_devices()[0].compute_capability  # "9.0"; of an AMD GPU, such as "gfx942"
    return capability[:1].isdigit() and float(capability) >= 8


def attend(
    q: Float[Array, "b t n d"],
    k: Float[Array, "b s n d"],
    v: Float[Array, "b s n d"],
    mask: Bool[Array, "b s"] | None = None,
) -> Float[Array, "b t n d"]:
    """softmax(q k^T / sqrt(d)) v for each of n heads; keys are left out where `mask` is false."""
    if implementation(q, k, masked=mask is not None) == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[:, None, None, :])


def head_count(channels: int, heads: int, head_channels: int) -> int:
    """The number of heads: `heads`, or as many as have `head_channels` each where that is not 0. Raises ValueError
    where they do not divide the channels.
    """
    if head_channels and channels % head_channels:
        raise ValueError(f"{channels} channels do not divide into attention heads of {head_channels}")
    number = channels // head_channels if head_channels else heads
    if channels % number:
        raise ValueError(f"{channels} channels do not divide by {number} attention heads")
    return number


class MultiHead(nn.Module):
    """W_o attention(W_q x, W_k y, W_v y), with y the context or x itself."""

    heads: int
    qkv_bias: bool = True
    zero_init: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        context: Float[Array, "b s e"] | None = None,
        mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b t c"]:
        channels = x.shape[-1]

        def heads_of(tokens: Array, name: str) -> Array:
            projected = Dense(channels, self.qkv_bias, dtype=self.dtype, name=name)(tokens)
            return projected.reshape(*tokens.shape[:2], self.heads, -1)

        source = x if context is None else context
        mixed = attend(heads_of(x, "q"), heads_of(source, "k"), heads_of(source, "v"), mask)
        return Dense(channels, zero_init=self.zero_init, dtype=self.dtype, name="out")(mixed.reshape(x.shape))


class SelfAttention(nn.Module):
    """x + W attention over the H x W pixels, a norm before (Ho et al., arXiv 2006.11239, appendix B)."""

    style: Style
    heads: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return _pixels_attend(self.style, self.heads, x)


class CrossAttention(nn.Module):
    """x + W attention from the pixels to the tokens of a context, a norm before."""

    style: Style
    heads: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], context: Float[Array, "b s e"], mask: Bool[Array, "b s"] | None = None
    ) -> Float[Array, "b h w c"]:
        return _pixels_attend(self.style, self.heads, x, context, mask)


def _pixels_attend(
    style: Style,
    heads: int,
    x: Float[Array, "b h w c"],
    context: Float[Array, "b s e"] | None = None,
    mask: Bool[Array, "b s"] | None = None,
) -> Float[Array, "b h w c"]:
    """x + W attention from the pixels to a context, or to one another; within a module's call."""
    tokens = Norm(style, name="norm")(x).reshape(x.shape[0], -1, x.shape[-1])
    out = MultiHead(heads, zero_init=True, dtype=style.dtype, name="attention")(tokens, context, mask)
    return (x + out.reshape(x.shape)) * style.skip_scale


class SpatialTransformer(nn.Module):
    """norm - linear - `depth` transformer layers over H x W tokens - linear, + x (Rombach et al., arXiv 2112.10752,
    appendix E.2.1). A layer: self-attention, cross-attention (where there is a context), feed-forward with GEGLU
    (Shazeer, arXiv 2002.05202), each with a layer norm before and a residual sum around it.
    """

    style: Style
    heads: int = 1
    depth: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        context: Float[Array, "b s e"] | None = None,
        mask: Bool[Array, "b s"] | None = None,
    ) -> Float[Array, "b h w c"]:
        channels, dtype = x.shape[-1], self.style.dtype

        def norm(h: Array, name: str) -> Array:
            return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)(h)

        def multi_head(name: str) -> MultiHead:
            return MultiHead(self.heads, qkv_bias=False, dtype=dtype, name=name)

        # Its norm is always the group norm with this epsilon, whatever the blocks' (as published).
        normed = Norm(Style(norm_groups=self.style.norm_groups, norm_eps=1e-6, dtype=dtype), name="norm")(x)
        h = Dense(channels, dtype=dtype, name="in")(normed.reshape(x.shape[0], -1, channels))
        for layer in range(self.depth):
            h += multi_head(f"self_{layer}")(norm(h, f"self_norm_{layer}"))
            if context is not None:
                h += multi_head(f"cross_{layer}")(norm(h, f"cross_norm_{layer}"), context, mask)
            wide = Dense(8 * channels, dtype=dtype, name=f"wide_{layer}")(norm(h, f"wide_norm_{layer}"))
            value, gate = jnp.split(wide, 2, axis=-1)
            h += Dense(channels, dtype=dtype, name=f"narrow_{layer}")(value * nn.gelu(gate, approximate=False))
        out = Dense(channels, zero_init=True, dtype=dtype, name="out")(h)
        return (x + out.reshape(x.shape)) * self.style.skip_scale
