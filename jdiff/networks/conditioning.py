"""Conditions -> what a network takes of them. One embedder a kind of condition; a network holds a `Conditioner` of any.

Every embedder is called with the condition's values, [B, ...], and `drop`, [B] booleans or None: rows where it is true
get a learned null in place of their values, in every place, so that one network learns to do with and without, and
nothing is left of what was dropped, not even its length. It answers in the form that suits the condition:

    vector   [B, e]         added to the embedding of the noise level
    tokens   [B, t, d]      what attention looks at (with a mask [B, t], false where there is no token)
    planes   [B, h, w, c]   laid beside the image's channels
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jdiff.networks.attention import MultiHead
from jdiff.networks.embeddings import positions, sinusoidal
from jdiff.networks.layers import Conv, Dense, Dtype

normal = nn.initializers.normal


@struct.dataclass
class Embedded:
    """What is known of the conditions, in the forms above; None where no condition takes that form."""

    vector: Float[Array, "b e"] | None = None
    tokens: Float[Array, "b t d"] | None = None
    mask: Bool[Array, "b t"] | None = None
    planes: Float[Array, "b h w c"] | None = None

    def added(self, embedding: Float[Array, "b e"]) -> Float[Array, "b e"]:
        """The embedding of the noise level and of the conditions that are vectors."""
        return embedding if self.vector is None else embedding + self.vector.astype(embedding.dtype)

    def beside(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c2"]:
        """x with the conditions that are planes laid beside it."""
        return x if self.planes is None else jnp.concatenate([x, self.planes], axis=-1)


class Conditioner(nn.Module):
    """cond -> Embedded: each embedder's answer to cond[name], vectors added, tokens and planes beside one another.

    cond["drop"], where it is there, holds [B] booleans by name. What an optional embedder reads may be missing.
    """

    embedders: Mapping[str, nn.Module]

    @nn.compact
    def __call__(self, cond: Mapping[str, Any]) -> Embedded:
        drop = cond.get("drop", {})
        answers = [
            embed(cond[name], drop.get(name))
            for name, embed in self.embedders.items()
            if name in cond or not getattr(embed, "optional", False)
        ]

        def joined(form: str, axis: int) -> Array | None:
            parts = [getattr(answer, form) for answer in answers if getattr(answer, form) is not None]
            return jnp.concatenate(parts, axis=axis) if parts else None

        vectors = [answer.vector for answer in answers if answer.vector is not None]
        seen = [(answer.tokens, answer.mask) for answer in answers if answer.tokens is not None]
        masks = [jnp.ones(tokens.shape[:2], bool) if mask is None else mask for tokens, mask in seen]
        return Embedded(
            vector=sum(vectors[1:], vectors[0]) if vectors else None,
            tokens=joined("tokens", 1),
            mask=jnp.concatenate(masks, axis=1) if any(mask is not None for _, mask in seen) else None,
            planes=joined("planes", -1),
        )


class LabelEmbedding(nn.Module):
    """A learned vector a class, and one more, the null. An image of several labels, [B, k], has the sum of their
    vectors; a label below 0 is none.
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
    """Numbers [B, k], each of about 1 to 100 in size or less: sinusoids of each, and two layers."""

    features: int
    waves: int = 32
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, values: Float[Array, "b k"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        waves = sinusoidal(100.0 * values.reshape(-1), self.waves).reshape(len(values), -1)
        h = jnp.concatenate([waves, values.astype(jnp.float32)], axis=-1)
        h = nn.silu(Dense(self.features, dtype=self.dtype, name="dense_0")(h))
        vector = Dense(self.features, dtype=self.dtype, name="dense_1")(h)
        return Embedded(vector=_null_where(drop, vector, self.param("null", normal(0.02), (self.features,))))


class AugmentEmbedding(nn.Module):
    """What was done to the pictures, [B, k], zeros for nothing: W a, without a bias, so that nothing done adds nothing
    (Karras et al., arXiv 2206.00364, appendix F.2). Missing in sampling.
    """

    features: int
    dtype: Dtype = jnp.float32
    optional = True

    @nn.compact
    def __call__(self, done: Float[Array, "b k"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        kernel = self.param("kernel", nn.initializers.zeros, (done.shape[-1], self.features))
        return Embedded(vector=done.astype(self.dtype) @ kernel.astype(self.dtype))


class ImagePlanes(nn.Module):
    """An image of x's sides, laid beside x; the null is a learned colour."""

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        null = self.param("null", normal(0.02), (images.shape[-1],))
        return Embedded(planes=_null_where(drop, images.astype(jnp.float32), null))


class ImageTokens(nn.Module):
    """An image of any size as tokens: convolutions that halve it `halvings` times, then its pixels, [B, h w, d], with a
    sinusoidal position. Raises ValueError where 4 does not divide `features`.
    """

    features: int
    halvings: int = 2
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], drop: Bool[Array, " b"] | None = None) -> Embedded:
        h = Conv(self.features, dtype=self.dtype, name="conv")(images.astype(self.dtype))
        for index in range(self.halvings):
            h = Conv(self.features, stride=2, dtype=self.dtype, name=f"down_{index}")(nn.silu(h))
            h = Conv(self.features, dtype=self.dtype, name=f"conv_{index}")(nn.silu(h))
        h += positions(h.shape[1], h.shape[2], self.features).astype(self.dtype)
        tokens = nn.LayerNorm(dtype=self.dtype, name="norm")(h.reshape(len(h), -1, self.features))
        tokens = _null_where(drop, tokens, self.param("null", normal(1.0), (self.features,)))
        return Embedded(tokens=tokens)


class Pooled(nn.Module):
    """Tokens [B, t, d], the null in rows where they are dropped, and a vector: their mean over the mask, one layer."""

    vector_features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"], drop: Bool[Array, " b"] | None
    ) -> Embedded:
        tokens = _null_where(drop, tokens, self.param("null", normal(1.0), (tokens.shape[-1],)))
        mask = _whole_where(drop, mask)
        # A text may have no token at all: some tokenizers make none of "".
        weights = mask[..., None] / jnp.maximum(jnp.sum(mask, axis=1), 1)[:, None, None]
        mean = jnp.sum(tokens * weights.astype(tokens.dtype), axis=1)
        return Embedded(
            vector=Dense(self.vector_features, dtype=self.dtype, name="dense")(mean), tokens=tokens, mask=mask
        )


class TextTransformer(nn.Module):
    """Token ids [B, t], 0 where there is none, through a transformer learned along with the network.

    Pre-norm layers (Xiong et al., arXiv 2002.04745) of width `features`. Answers with its tokens, and with a vector of
    `vector_features`, linear in their mean.
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
    """Features [B, t, f] of a frozen text encoder, with their mask, through one layer: tokens of width `features`, and
    a vector of `vector_features`, linear in their mean.
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
    """Features [B, t, f] of a frozen text encoder, as they are: what networks of latent diffusion take."""

    features: int

    @nn.compact
    def __call__(self, text: Mapping[str, Array], drop: Bool[Array, " b"] | None = None) -> Embedded:
        null = self.param("null", nn.initializers.zeros, (self.features,))
        mask = _whole_where(drop, text["mask"]) if "mask" in text else None
        return Embedded(tokens=_null_where(drop, text["features"], null), mask=mask)


def is_conditioner(name: str) -> bool:
    """Whether a network's part of this name is a `Conditioner`, of which it may have one a block ("conditioner_3")."""
    return name.split("_")[0] == "conditioner"


def _null_where(drop: Bool[Array, " b"] | None, values: Array, null: Float[Array, " f"]) -> Array:
    """`null` in every place of the rows where `drop` is true."""
    if drop is None:
        return values
    return jnp.where(drop.reshape(-1, *[1] * (values.ndim - 1)), null.astype(values.dtype), values)


def _whole_where(drop: Bool[Array, " b"] | None, mask: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """True throughout the rows where `drop` is: as many nulls whatever was dropped."""
    return mask if drop is None else mask | drop[:, None]
