"""Embeddings of conditions: one embedder for each kind of condition, joined by a network's `Conditioner`.

An embedder takes a condition's values, [B, ...], and `drop`, [B] booleans or None. Rows with drop = true get a learned
null embedding at every position, so that one network learns the conditional and the unconditional model, and nothing of
a dropped condition shows, not even its length. An embedding takes one or more of three forms:

    vector     [B, e]         added to the embedding of the noise level
    tokens     [B, t, d]      the context of cross-attention, with a mask [B, t], false at padding
    channels   [B, h, w, c]   concatenated to the noisy image
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jdiff.networks.attention import MultiHead
from jdiff.networks.embeddings import positions, sinusoidal
from jdiff.networks.layers import Conv, Dense, Dtype

normal = nn.initializers.normal


@struct.dataclass
class Embedded:
    """The embedding of one or more conditions; a form is None where no condition has it."""

    vector: Float[Array, "b e"] | None = None
    tokens: Float[Array, "b t d"] | None = None
    mask: Bool[Array, "b t"] | None = None
    channels: Float[Array, "b h w c"] | None = None

    def add_to(self, embedding: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """embedding + vector."""
        return embedding if self.vector is None else embedding + self.vector.astype(embedding.dtype)

    def concat_to(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        """[x, channels]."""
        return x if self.channels is None else jnp.concatenate([x, self.channels], axis=-1)


class Conditioner(nn.Module):
    """cond -> the embedding of all conditions: the sum of vectors, the concatenation of tokens and that of channels.

    Embedder `name` reads cond[name] and, where given, cond["drop"][name]. Only an optional condition may be missing.
    """

    embedders: Mapping[str, nn.Module]

    @nn.compact
    def __call__(self, cond: Mapping[str, Any]) -> Embedded:
        drop = cond.get("drop", {})
        embeddings = [
            embed(cond[name], drop.get(name))
            for name, embed in self.embedders.items()
            if name in cond or not getattr(embed, "optional", False)
        ]

        def concatenated(form: str, axis: int) -> Array | None:
            parts = [getattr(embedding, form) for embedding in embeddings if getattr(embedding, form) is not None]
            return jnp.concatenate(parts, axis=axis) if parts else None

        vectors = [embedding.vector for embedding in embeddings if embedding.vector is not None]
        contexts = [(embedding.tokens, embedding.mask) for embedding in embeddings if embedding.tokens is not None]
        masks = [jnp.ones(tokens.shape[:2], bool) if mask is None else mask for tokens, mask in contexts]
        return Embedded(
            vector=sum(vectors[1:], vectors[0]) if vectors else None,
            tokens=concatenated("tokens", 1),
            mask=jnp.concatenate(masks, axis=1) if any(mask is not None for _, mask in contexts) else None,
            channels=concatenated("channels", -1),
        )


class LabelEmbedding(nn.Module):
    """A vector: the sum of table[label] over an image's labels, [B] or [B, k], negative labels being padding. Row
    num_classes of the table is the null.
    """

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, labels: Int[Array, "*rows"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        table = self.param("table", normal(1.0), (self.num_classes + 1, self.features))
        several = labels.reshape(len(labels), -1)
        vector = jnp.sum(jnp.where(several[..., None] < 0, 0.0, table[several]), axis=1)
        return Embedded(vector=_null_where(drop, vector, table[self.num_classes]))


class ScalarEmbedding(nn.Module):
    """A vector, W_1 SiLU(W_0 [sinusoidal(100 v), v]), of scalars v [B, k] of magnitude up to about 100."""

    features: int
    channels: int = 32  # of each scalar's sinusoidal features
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "b k"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        sinusoids = sinusoidal(100.0 * values.reshape(-1), self.channels).reshape(len(values), -1)
        h = jnp.concatenate([sinusoids, values.astype(jnp.float32)], axis=-1)
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(h))
        vector = Dense(self.features, dtype=self.dtype, name="dense_1")(h)
        return Embedded(vector=_null_where(drop, vector, self.param("null", normal(0.02), (self.features,))))


class AugmentEmbedding(nn.Module):
    """A vector, W a, of an augmentation's parameters a [B, k]; no bias, so that a = 0, no augmentation, adds nothing
    (Karras et al., arXiv 2206.00364, appendix F.2). Sampling leaves it out.
    """

    features: int
    dtype: Dtype = jnp.float32
    optional = True

    @nn.compact
    def __call__(self, parameters: Float[Array, "b k"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        kernel = self.param("kernel", nn.initializers.zeros, (parameters.shape[-1], self.features))
        return Embedded(vector=parameters.astype(self.dtype) @ kernel.astype(self.dtype))


class JumpEmbedding(nn.Module):
    """A vector, W_1 SiLU(W_0 [sinusoidal(ln sigma / 4), sinusoidal(4 (1 - s / sigma))]), of a jump from sigma to s,
    [B, 2] of these two numbers before their factor 4. W_1 = 0 at initialisation, so that a network that learned without
    answers as before.

    Both features are slow, whatever the network's own embedding of sigma: losses of flow maps differentiate along sigma
    (Lu and Song, arXiv 2410.11081, section 4.1).
    """

    features: int
    channels: int = 64  # of each number's sinusoidal features
    dtype: Dtype = jnp.float32
    optional = True

    @nn.compact
    def __call__(self, jump: Float[Array, "b 2"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        sinusoids = [sinusoidal(jump[:, 0], self.channels), sinusoidal(4.0 * jump[:, 1], self.channels)]
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(jnp.concatenate(sinusoids, axis=-1)))
        return Embedded(vector=Dense(self.features, zero_init=True, dtype=self.dtype, name="dense_1")(h))


class GuidanceEmbedding(nn.Module):
    """A vector, W_1 SiLU(W_0 sinusoidal(w)), of the scale w [B] of a guidance that is trained in (Meng et al., arXiv
    2210.03142, section 3.1); W_1 = 0 at initialisation.
    """

    features: int
    channels: int = 64
    dtype: Dtype = jnp.float32
    optional = True

    @nn.compact
    def __call__(self, scale: Float[Array, " b"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(sinusoidal(scale, self.channels)))
        return Embedded(vector=Dense(self.features, zero_init=True, dtype=self.dtype, name="dense_1")(h))


class ImageChannels(nn.Module):
    """Channels: an image of x's height and width, for concatenation (Saharia et al., arXiv 2104.07636). The null is a
    learned colour.
    """

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        null = self.param("null", normal(0.02), (images.shape[-1],))
        return Embedded(channels=_null_where(drop, images.astype(jnp.float32), null))


class ImageTokens(nn.Module):
    """Tokens, [B, t, d], of an image of any size: convolutions, `downsamples` of them of stride 2, a
    sinusoidal position embedding, and a layer norm. Raises ValueError where 4 does not divide `features`.
    """

    features: int
    downsamples: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        h = Conv(self.features, dtype=self.dtype, name="conv")(images.astype(self.dtype))
        for index in range(self.downsamples):
            h = Conv(self.features, stride=2, dtype=self.dtype, name=f"down_{index}")(nn.silu(h))
            h = Conv(self.features, dtype=self.dtype, name=f"conv_{index}")(nn.silu(h))
        h += positions(h.shape[1], h.shape[2], self.features).astype(self.dtype)
        tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(h.reshape(len(h), -1, self.features))
        tokens = _null_where(drop, tokens, self.param("null", normal(1.0), (self.features,)))
        return Embedded(tokens=tokens)


class Pooled(nn.Module):
    """Tokens [B, t, d] as they are, and a vector, W mean(tokens) + b, with the mean over the mask."""

    vector_features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"], drop: Bool[Array, " b"] | None
    ) -> Embedded:
        tokens = _null_where(drop, tokens, self.param("null", normal(1.0), (tokens.shape[-1],)))
        mask = _true_where(drop, mask)
        # The maximum with 1: some tokenizers make no token of "".
        weights = mask[..., None] / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None, None]
        mean = jnp.sum(tokens * weights.astype(tokens.dtype), axis=1)
        return Embedded(
            vector=Dense(self.vector_features, dtype=self.dtype, name="dense")(mean), tokens=tokens, mask=mask
        )


class TextTransformer(nn.Module):
    """Tokens of width `features` and a vector of `vector_features` (`Pooled`): a pre-norm transformer (Xiong et al.,
    arXiv 2002.04745), trained with the network, on token ids [B, t], 0 being padding.
    """

    vocabulary: int
    features: int
    vector_features: int
    depth: int = 2
    heads: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        def norm(h: Array, name: str) -> Array:
            return nn.LayerNorm(dtype=self.dtype, name=name)(h)

        mask = ids != 0
        h = self.param("table", normal(0.02), (self.vocabulary, self.features))[ids]
        h += self.param("positions", normal(0.02), (ids.shape[1], self.features))
        for layer in range(self.depth):
            tokens = norm(h, f"self_norm_{layer}")
            h += MultiHead(self.heads, dtype=self.dtype, name=f"self_{layer}")(tokens, mask=mask)
            wide = nn.gelu(Dense(4 * self.features, dtype=self.dtype, name=f"wide_{layer}")(norm(h, f"norm_{layer}")))
            h += Dense(self.features, dtype=self.dtype, name=f"narrow_{layer}")(wide)
        return Pooled(self.vector_features, self.dtype, name="pooled")(norm(h, "last_norm"), mask, drop)


class TextFeatures(nn.Module):
    """Tokens of width `features`, norm(W f + b), from a frozen text encoder's features f [B, t, c], and a vector of
    `vector_features` (`Pooled`).
    """

    features: int
    vector_features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, text: Mapping[str, Array], drop: Bool[Array, " b"] | None = None) -> Embedded:
        tokens = Dense(self.features, dtype=self.dtype, name="dense")(text["features"])
        tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(tokens)
        return Pooled(self.vector_features, self.dtype, name="pooled")(tokens, text["mask"], drop)


class TextTokens(nn.Module):
    """Tokens: a frozen text encoder's features [B, t, c] themselves (Rombach et al., arXiv 2112.10752).

    null_tokens: t, where the null is the features [t, c] of the empty text, which are given and not trained.
    """

    features: int
    null_tokens: int = 0

    @nn.compact
    def __call__(self, text: Mapping[str, Array], drop: Bool[Array, " b"] | None = None) -> Embedded:
        shape = (self.null_tokens, self.features) if self.null_tokens else (self.features,)
        null = self.param("null", nn.initializers.zeros, shape)
        if self.null_tokens:
            null = jax.lax.stop_gradient(null)
        mask = _true_where(drop, text["mask"]) if "mask" in text else None
        return Embedded(tokens=_null_where(drop, text["features"], null), mask=mask)


def is_conditioner(name: str) -> bool:
    """Whether a network's submodule of this name is a `Conditioner` ("conditioner", or "conditioner_3" of block 3)."""
    return name.split("_")[0] == "conditioner"


def _null_where(drop: Bool[Array, " b"] | None, values: Array, null: Float[Array, "*t f"]) -> Array:
    """values, with `null` at every position of the rows where `drop` is true, or one for each position."""
    if drop is None:
        return values
    return jnp.where(drop.reshape(-1, *[1] * (values.ndim - 1)), null.astype(values.dtype), values)


def _true_where(drop: Bool[Array, " b"] | None, mask: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """mask, all true in the rows where `drop` is: these have t nulls, whatever the length of the dropped text."""
    return mask if drop is None else mask | drop[:, None]
