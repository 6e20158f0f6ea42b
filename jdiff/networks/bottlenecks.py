"""What lies between an autoencoder's encoder and decoder: nothing, a Gaussian, a codebook, or a grid of levels.

    features = encode(x),    z = latents(features),    x_hat = decode(quantized(z))

Pure functions; a codebook is state that follows the features, no parameter that gradients train.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from jdiff.common.keys import named
from jdiff.networks.quantizer import nearest

LOG_VARIANCE_RANGE = (-30.0, 20.0)
SMOOTHING = 1e-5  # of a codebook's counts, in uniform shares

# z_q [B, h, w, channels], terms of the loss {name: [B]}, state, logs {name: []}
Trained: TypeAlias = tuple[Array, dict[str, Array], PyTree, dict[str, Array]]


@runtime_checkable
class Bottleneck(Protocol):
    """features: the channels that the encoder gives. channels: of a latent.

    init(key) -> state
    latents(features, key) -> z, drawn with the key where it is random, its mean where the key is None
    quantized(state, z) -> z_q, what the decoder is given, with straight-through gradients
    train(state, features, key, values) -> z_q, terms, state, logs
        values: the number of an image's values, H W C. Terms are weighted. z_q and terms are by the state given, so
        that held-out images are scored by leaving out the state returned.
    """

    @property
    def features(self) -> int: ...
    @property
    def channels(self) -> int: ...
    def init(self, key: Array) -> PyTree: ...
    def latents(self, features: Float[Array, "b h w f"], key: Array | None) -> Float[Array, "b h w z"]: ...
    def quantized(self, state: PyTree, z: Float[Array, "*b z"]) -> Float[Array, "*b z"]: ...
    def train(self, state: PyTree, features: Float[Array, "b h w f"], key: Array, values: int) -> Trained: ...


@dataclass(frozen=True)
class Plain:
    """z = features: a plain autoencoder."""

    channels: int

    @property
    def features(self) -> int:
        return self.channels

    def init(self, key: Array) -> PyTree:
        return {}

    def latents(self, features: Float[Array, "b h w z"], key: Array | None) -> Float[Array, "b h w z"]:
        return features

    def quantized(self, state: PyTree, z: Float[Array, "*b z"]) -> Float[Array, "*b z"]:
        return z

    def train(self, state: PyTree, features: Float[Array, "b h w z"], key: Array, values: int) -> Trained:
        return features, {}, state, {}


@dataclass(frozen=True)
class Gaussian:
    """q(z | x) = N(mean, exp(log_variance)), the two halves of the features (Kingma & Welling, arXiv 1312.6114).

    kl = beta KL(q || N(0, 1)) / values,   KL = 1/2 sum(mean^2 + var - 1 - ln var) over the latent, in nats

    Divided by the number of the image's values, as reconstruction terms are means over them: with beta = 1 and
    -ln p(x | z) for these, the loss is the negative ELBO in nats a value. log_variance is clipped to [-30, 20].
    """

    channels: int
    beta: float = 1e-6

    @property
    def features(self) -> int:
        return 2 * self.channels

    def init(self, key: Array) -> PyTree:
        return {}

    def moments(self, features: Float[Array, "*b f"]) -> tuple[Float[Array, "*b z"], Float[Array, "*b z"]]:
        """(mean, log_variance) of q(z | x)."""
        mean, log_variance = jnp.split(features, 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE)

    def latents(self, features: Float[Array, "b h w f"], key: Array | None) -> Float[Array, "b h w z"]:
        mean, log_variance = self.moments(features)
        if key is None:
            return mean
        return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)

    def quantized(self, state: PyTree, z: Float[Array, "*b z"]) -> Float[Array, "*b z"]:
        return z

    def divergence(self, features: Float[Array, "b h w f"]) -> Float[Array, " b"]:
        """KL(q(z | x) || N(0, 1)) in nats an image."""
        mean, log_variance = self.moments(features)
        return 0.5 * jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance, axis=(1, 2, 3))

    def train(self, state: PyTree, features: Float[Array, "b h w f"], key: Array, values: int) -> Trained:
        kl = self.divergence(features) / values
        bits = jnp.mean(kl) / math.log(2)
        return self.latents(features, key), {"kl": self.beta * kl}, state, {"kl_bits": bits}


@dataclass(frozen=True)
class VQ:
    """z_q = the code nearest to z = features (van den Oord et al., arXiv 1711.00937), straight through.

    commitment = beta mean (z - sg(z_q))^2 trains the encoder. The codes are moving averages of the features nearest to
    them (appendix A.1), decayed by images: with n_k features of sum s_k in a batch of B images,

        counts_k <- d counts_k + (1 - d) n_k / B,   sums_k <- d sums_k + (1 - d) s_k / B
        codes_k = sums_k / counts_k,   d = 0.5^(B / halflife_images)

    where the last counts are smoothed by 1e-5 of the uniform share.

    A code whose count falls below `revive` uniform shares is dead: it becomes a feature drawn from the batch, with the
    uniform share for its count. So, too, are the first codes drawn.
    """

    size: int
    channels: int
    commitment: float = 0.25
    halflife_images: float = 5000.0
    revive: float = 0.03

    @property
    def features(self) -> int:
        return self.channels

    def init(self, key: Array) -> PyTree:
        """Codes of N(0, 1), all dead. Near 0, they would make the decoder's first norm divide by almost nothing."""
        shape = (self.size, self.channels)
        codes = jax.random.normal(named(key, "codebook"), shape)
        return {"codebook": {"codes": codes, "counts": jnp.zeros(self.size), "sums": jnp.zeros(shape)}}

    def holding(self, codes: Float[Array, "k d"]) -> PyTree:
        """The state with these codes, such as another library's, of equal counts."""
        return {"codebook": {"codes": codes, "counts": jnp.ones(len(codes)), "sums": jnp.copy(codes)}}

    def latents(self, features: Float[Array, "b h w d"], key: Array | None) -> Float[Array, "b h w d"]:
        return features

    def quantized(self, state: PyTree, z: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return nearest(_codes(state), z)[0]

    def indices(self, state: PyTree, z: Float[Array, "*b d"]) -> Int[Array, "*b"]:
        """The indices of the nearest codes."""
        return nearest(_codes(state), z)[1]

    def lookup(self, state: PyTree, indices: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """The codes of these indices; NaN where an index is out of range."""
        return jnp.take(_codes(state), indices, axis=0, mode="fill")

    def train(self, state: PyTree, features: Float[Array, "b h w d"], key: Array, values: int) -> Trained:
        z_q, indices = nearest(_codes(state), features)
        error = jnp.mean((features - lax.stop_gradient(z_q)) ** 2, axis=(1, 2, 3))
        used = _uses(indices, self.size)
        book = self._updated(state["codebook"], lax.stop_gradient(features), indices, used, key)
        return z_q, {"commitment": self.commitment * error}, {**state, "codebook": book}, _use_logs(used)

    def _updated(self, book: PyTree, features: Array, indices: Array, used: Array, key: Array) -> PyTree:
        images = features.shape[0]
        decay = 0.5 ** (images / self.halflife_images)
        flat = features.reshape(-1, self.channels)
        # A product, not a scatter: sums in no fixed order would differ from run to run on a GPU.
        members = jax.nn.one_hot(indices.reshape(-1), self.size)
        sums = jnp.einsum("mk,md->kd", members, flat, precision=lax.Precision.HIGHEST)
        counts = decay * book["counts"] + (1 - decay) * used / images
        sums = decay * book["sums"] + (1 - decay) * sums / images
        share = counts.sum() / self.size
        dead = counts < self.revive * share
        drawn = flat[jax.random.randint(named(key, "revive"), (self.size,), 0, len(flat))]
        counts = jnp.where(dead, share, counts)
        sums = jnp.where(dead[:, None], drawn * share, sums)
        total = counts.sum()
        smoothed = (counts + SMOOTHING * total / self.size) / (1 + SMOOTHING)
        return {"codes": sums / smoothed[:, None], "counts": counts, "sums": sums}


@dataclass(frozen=True)
class FSQ:
    """Channel c of z = tanh(features) is rounded to levels[c] values evenly spaced on [-1, 1], -1 and 1 among them,
    straight through (Mentzer et al., arXiv 2309.15505): prod(levels) codes, no codebook and no term of its own.

    Values are 2 i / (L - 1) - 1, i = 0 .. L - 1, for even and odd L; the paper's even L leave out 1.
    """

    levels: tuple[int, ...]

    @property
    def features(self) -> int:
        return len(self.levels)

    @property
    def channels(self) -> int:
        return len(self.levels)

    @property
    def size(self) -> int:
        """The number of codes."""
        return math.prod(self.levels)

    def init(self, key: Array) -> PyTree:
        return {}

    def latents(self, features: Float[Array, "b h w d"], key: Array | None) -> Float[Array, "b h w d"]:
        return jnp.tanh(features)

    def quantized(self, state: PyTree, z: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        return lax.stop_gradient(self._values(self._digits(z))) + (z - lax.stop_gradient(z))

    def indices(self, state: PyTree, z: Float[Array, "*b d"]) -> Int[Array, "*b"]:
        """sum_c i_c L_0 ... L_(c-1), from 0 to size - 1, one for each code."""
        return jnp.sum(self._digits(z) * self._radix, axis=-1)

    def lookup(self, state: PyTree, indices: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """The codes of these indices."""
        return self._values(indices[..., None] // self._radix % jnp.array(self.levels))

    def train(self, state: PyTree, features: Float[Array, "b h w d"], key: Array, values: int) -> Trained:
        z_q = self.quantized(state, self.latents(features, None))
        return z_q, {}, state, _use_logs(_uses(self.indices(state, z_q), self.size))

    @property
    def _radix(self) -> Int[Array, " d"]:
        return jnp.array([math.prod(self.levels[:c]) for c in range(len(self.levels))])

    def _digits(self, z: Array) -> Int[Array, "..."]:
        last = jnp.array(self.levels) - 1
        return jnp.clip(jnp.round((z + 1) / 2 * last).astype(int), 0, last)

    def _values(self, digits: Array) -> Float[Array, "..."]:
        return 2 * digits.astype(jnp.float32) / (jnp.array(self.levels) - 1) - 1


def _codes(state: PyTree) -> Float[Array, "k d"]:
    # A loaded model's codes are a NumPy array, which a traced index cannot look up.
    return jnp.asarray(state["codebook"]["codes"])


def _uses(indices: Int[Array, "..."], size: int) -> Int[Array, " k"]:
    """How often each code is among the indices."""
    return jnp.zeros(size, int).at[indices.reshape(-1)].add(1)


def _use_logs(used: Int[Array, " k"]) -> dict[str, Any]:
    """perplexity: exp(-sum p ln p) of the batch's codes, from 1 to their number. codes_used: the share of all codes."""
    p = used / used.sum()
    return {"perplexity": jnp.exp(jnp.sum(jax.scipy.special.entr(p))), "codes_used": jnp.mean(used > 0)}
