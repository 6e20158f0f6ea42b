"""Attention over tokens and over the pixels of a feature map (Vaswani et al., arXiv 1706.03762)."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jdiff.networks.layers import Dense, Dtype, Norm, Style

_XLA_ONLY: ContextVar[bool] = ContextVar("xla_only", default=False)


def implementation(q: Float[Array, "b t n d"], k: Float[Array, "b s n d"], *, masked: bool) -> str:
    """The implementation of `attend` for these arrays: "cudnn" or "xla".

    "cudnn" is flash attention, without a T x S matrix in memory. Its kernels need an NVIDIA GPU from Ampere on, 16-bit
    floats, a head width that is a multiple of 8 up to 128, even numbers of tokens and no mask; they are faster from 64
    tokens on.
    """
    allowed = not masked and not _XLA_ONLY.get()
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    width_fits = q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    length_fits = q.shape[1] % 2 == 0 and k.shape[1] % 2 == 0 and q.shape[1] >= 64
    return "cudnn" if allowed and half and width_fits and length_fits and _has_kernels() else "xla"


@contextlib.contextmanager
def forward_differentiable() -> Iterator[None]:
    """A context in which attention is traced with forward-mode derivatives: XLA's, since cuDNN's kernels have none."""
    token = _XLA_ONLY.set(True)
    try:
        yield
    finally:
        _XLA_ONLY.reset(token)


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
    """softmax(q k^T / sqrt(d)) v in each of n heads, over the keys where `mask` is true."""
    if implementation(q, k, masked=mask is not None) == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v, mask=None if mask is None else mask[:, None, None, :])


def head_count(channels: int, heads: int, head_channels: int) -> int:
    """The number of attention heads: channels / head_channels, or `heads` where head_channels is 0. Raises ValueError
    where it does not divide the channels.
    """
    if head_channels and channels % head_channels:
        raise ValueError(f"{channels} channels do not divide into attention heads of {head_channels}")
    number = channels // head_channels if head_channels else heads
    if channels % number:
        raise ValueError(f"{channels} channels do not divide by {number} attention heads")
    return number


class MultiHead(nn.Module):
    """Multi-head attention, W_o attention(W_q x, W_k y, W_v y), with y the context or, without one, x."""

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

        def projection(tokens: Array, name: str) -> Array:
            projected = Dense(channels, self.qkv_bias, dtype=self.dtype, name=name)(tokens)
            return projected.reshape(*tokens.shape[:2], self.heads, -1)

        source = x if context is None else context
        mixed = attend(projection(x, "q"), projection(source, "k"), projection(source, "v"), mask)
        return Dense(channels, zero_init=self.zero_init, dtype=self.dtype, name="out")(mixed.reshape(x.shape))


class SelfAttention(nn.Module):
    """x + attention(norm(x)) over the H x W pixels (Ho et al., arXiv 2006.11239, appendix B)."""

    style: Style
    heads: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return _pixels_attend(self.style, self.heads, x)


class CrossAttention(nn.Module):
    """x + attention(norm(x), context): the pixels are the queries, the context gives keys and values."""

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
    """x + attention(norm(x), context) over pixels, called within a module."""
    tokens = Norm(style, name="norm")(x).reshape(x.shape[0], -1, x.shape[-1])
    out = MultiHead(heads, zero_init=True, dtype=style.dtype, name="attention")(tokens, context, mask)
    return (x + out.reshape(x.shape)) * style.skip_scale


class SpatialTransformer(nn.Module):
    """x + linear(layers(linear(norm(x)))) with `depth` transformer layers over the H x W pixels (Rombach et al., arXiv
    2112.10752, appendix E.2.1). A pre-norm layer has self-attention, cross-attention to the context, if any, and a
    feed-forward network with GEGLU (Shazeer, arXiv 2002.05202).
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

        # The published layer has this norm whatever the norm of the blocks.
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
