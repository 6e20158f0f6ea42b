"""The flow-map task: learn D(x, sigma, s), by which the probability flow leads from x at sigma to

    x_s = D + (s / sigma) (x - D)

at s, for all s <= sigma: s = sigma is the posterior mean, s = 0 a consistency function. Below, x = x0 + sigma eps; the
mean over such x of (x - x0) / sigma is the flow's direction dx/dsigma. sg stops gradients.

In the coordinates of flow matching, t = sigma / (1 + sigma), r = s / (1 + s) and z = x / (1 + sigma) = (1 - t) x0 + t
eps, the average velocity from r to t is u(z, r, t) = (z - D) / t, and z_r = z - (t - r) u. With sigma_d the data's
deviation, those of TrigFlow are t = arctan(sigma / sigma_d) and x_t = cos(t) x.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jdiff.common.arrays import per_image
from jdiff.common.keys import named
from jdiff.diffusion.denoiser import Cond
from jdiff.diffusion.draws import Draw, uniform
from jdiff.diffusion.guidance import GUIDANCE_SCALE
from jdiff.networks.attention import forward_differentiable
from jdiff.spaces import Space
from jdiff.tasks import Weights
from jdiff.tasks.diffusion import DiffusionTask
from jdiff.training.step import AVERAGE

Images: TypeAlias = Float[Array, "b ..."]
Rows: TypeAlias = Float[Array, " b"]
Map: TypeAlias = Callable[[Images, Rows, Rows], Images]  # D(x, sigma, s)

# What d/dsigma is taken over where D is rough in sigma: a difference between sigma e^-w and sigma e^w.
WINDOW = 0.1
NEAREST = 1e4  # the highest q^(stage + 1) that stages lead to


class Maps(NamedTuple):
    """The network as D(x, sigma, s). learned: with gradients and dropout. still: the same without gradients. exact:
    likewise, computed in float32. average: by the averaged weights, without dropout.
    """

    learned: Map
    still: Map
    exact: Map
    average: Map


@dataclass(frozen=True)
class Seen:
    """images + (step - since) batch_size: how many images were trained on before a step, since the batch size was last
    changed.
    """

    batch_size: int = 1
    since: int = 0
    images: int = 0

    def __call__(self, step: Array) -> Array:
        return self.images + (jnp.asarray(step, jnp.float32) - self.since) * self.batch_size


@runtime_checkable
class Loss(Protocol):
    """What a paper makes of the identity of flow maps."""

    def levels(self, sigma: Rows, key: Key[Array, ""], step: Array) -> tuple[Rows, Rows]:
        """(sigma, s): the two noise levels of each image, s <= sigma. sigma: as the objective draws it."""
        ...

    def jumps(self, maps: Maps, x: Images, x0: Images, sigma: Rows, s: Rows, step: Array) -> tuple[Rows, Rows]:
        """(losses, mean squared errors). x0: where (x - x0) / sigma points from x, on average along the flow."""
        ...

    def weighted(self, losses: Rows) -> Rows:
        """Of images that learn s = sigma, whose losses are the objective's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """D(x, sigma, 0) is the same along a trajectory ("easy consistency tuning"; Geng et al., arXiv 2406.14548):

        (sqrt(|D(x, sigma, 0) - sg D(x_s, s, 0)|^2 + c^2) - c) / (sigma - s),   x_s = x0 + (s / sigma) (x - x0)
        s = sigma max(0, 1 - n(sigma) / q^(stage + 1)),   n(sigma) = 1 + k / (1 + e^(b sigma))

    with the norm over an image, the same dropout in both, and x0 in place of D(x_s, s, 0) where s = 0. The stage rises
    every `stage_images` images; 0: it stays 0, and q says at once how near s is. Stages raise q^(stage + 1) to NEAREST
    at most: nearer levels differ by rounding in float32.
    """

    q: float = 2.0
    stage_images: float = 0.0
    seen: Seen = Seen()
    k: float = 8.0
    b: float = 1.0
    c: float = 0.0

    def levels(self, sigma: Rows, key: Key[Array, ""], step: Array) -> tuple[Rows, Rows]:
        stage = jnp.floor(self.seen(step) / self.stage_images) if self.stage_images else jnp.float32(0.0)
        n = 1 + self.k * jax.nn.sigmoid(-self.b * sigma)
        q = jnp.asarray(self.q, sigma.dtype)
        return sigma, sigma * jnp.maximum(0.0, 1 - n / jnp.minimum(q ** (stage + 1), max(self.q, NEAREST)))

    def jumps(self, maps: Maps, x: Images, x0: Images, sigma: Rows, s: Rows, step: Array) -> tuple[Rows, Rows]:
        end = jnp.zeros_like(sigma)
        target = maps.still(moved(x, x0, sigma, s), jnp.where(s > 0, s, sigma), end)
        error = maps.learned(x, sigma, end) - jnp.where(per_image(s > 0, x), target, x0)
        return robust(error, self.c) / (sigma - s), mean_square(error)

    def weighted(self, losses: Rows) -> Rows:
        return losses


@dataclass(frozen=True, kw_only=True)
class ContinuousConsistency:
    """The limit s -> sigma (sCT; Lu and Song, arXiv 2410.11081, algorithm 1), in TrigFlow's coordinates, D = cos(t) x_t
    + sigma_d sin(t) F being the flow's end:

        |F - sg(F - g / (|g| + c))|^2,   g = cos(t) dD/dt = cos^2(t) (dx_t/dt + sigma_d F)
                                                            + h cos(t) sin(t) (sigma_d dF/dt - x_t)

    d/dt along dx_t/dt = cos(t) sigma_d eps - sin(t) x0. (The paper's F is -F.) h rises from 0 to 1 over the first
    `warmup_images`. c: of the tangent's normalisation; None: g itself. window: see `along`.
    """

    sigma_data: float
    warmup_images: float = 0.0
    seen: Seen = Seen()
    c: float | None = 0.1
    window: float | None = None

    def levels(self, sigma: Rows, key: Key[Array, ""], step: Array) -> tuple[Rows, Rows]:
        return sigma, sigma

    def jumps(self, maps: Maps, x: Images, x0: Images, sigma: Rows, s: Rows, step: Array) -> tuple[Rows, Rows]:
        spread, t = self.sigma_data, jnp.arctan(sigma / self.sigma_data)
        cos, sin = per_image(jnp.cos(t), x), per_image(jnp.sin(t), x)
        forward = cos * spread * (x - x0) / per_image(sigma, x) - sin * x0

        def raw(D: Map, x_t: Images, t: Rows) -> Images:  # F
            cos, sin = per_image(jnp.cos(t), x_t), per_image(jnp.sin(t), x_t)
            return (D(x_t / cos, spread * jnp.tan(t), jnp.zeros_like(t)) - cos * x_t) / (spread * sin)

        x_t = cos * x
        now, change = along(partial(raw, maps.exact), x_t, t, forward, jnp.sin(t) * jnp.cos(t), self.window)
        h = jnp.minimum(1.0, self.seen(step + 1) / self.warmup_images) if self.warmup_images else 1.0
        g = cos**2 * (forward + spread * now) + h * cos * sin * (spread * change - x_t)
        tangents = mean_square(g)
        if self.c is not None:
            g /= per_image(jnp.sqrt(jnp.sum(g**2, axis=_inside(g))) + self.c, g)
        learned = raw(maps.learned, x_t, t)
        return mean_square(learned - jax.lax.stop_gradient(learned - g)), tangents

    def weighted(self, losses: Rows) -> Rows:
        return losses


@dataclass(frozen=True, kw_only=True)
class MeanFlow:
    """The average velocity obeys u = v - (t - r) du/dt (Geng et al., arXiv 2505.13447), improved (arXiv 2512.02012):

        e^2 / sg(e^2 + c)^p,   e^2 = |u + (t - r) sg(du/dt) - (eps - x0)|^2,   the mean over pixels

    du/dt = d/dt u(z, r, t) along dz/dt = u(z, t, t), the network's own instantaneous velocity. s ~ `to`, and sigma and
    s change places where s > sigma. window: see `along`.
    """

    to: Draw
    p: float = 1.0
    c: float = 1e-3
    window: float | None = None

    def levels(self, sigma: Rows, key: Key[Array, ""], step: Array) -> tuple[Rows, Rows]:
        s = self.to(uniform(key, len(sigma)))
        return jnp.maximum(sigma, s), jnp.minimum(sigma, s)

    def jumps(self, maps: Maps, x: Images, x0: Images, sigma: Rows, s: Rows, step: Array) -> tuple[Rows, Rows]:
        t, r = sigma / (1 + sigma), s / (1 + s)

        def u(D: Map, z: Images, r: Rows, t: Rows) -> Images:
            return (z - D(z / per_image(1 - t, z), t / (1 - t), r / (1 - r))) / per_image(t, z)

        z = per_image(1 - t, x) * x
        velocity = u(maps.still, z, t, t)
        _, change = along(lambda z, t: u(maps.exact, z, r, t), z, t, velocity, t * (1 - t), self.window, lowest=r)
        V = u(maps.learned, z, r, t) + per_image(t - r, z) * change
        squares = mean_square(V - (x - x0) / per_image(sigma, x) + x0)
        return self.weighted(squares), squares

    def weighted(self, losses: Rows) -> Rows:
        return losses * jax.lax.stop_gradient(losses + self.c) ** -self.p


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A jump is two jumps of half its size (Frans et al., arXiv 2410.12557, eq. 5), by the averaged weights:

        |u(z, r, t) - sg(u(z, m, t) + u(z_m, r, m)) / 2|^2,   m = (t + r) / 2,   z_m = z - (t - m) u(z, m, t)

    the mean over pixels. The sizes t - r are 2^-k of all of the way from 0 to `largest`, in t, k ~ U(0, finest) (the
    paper's k are whole numbers), and t is uniform in what they leave.
    """

    largest: float
    finest: float = 7.0

    def levels(self, sigma: Rows, key: Key[Array, ""], step: Array) -> tuple[Rows, Rows]:
        whole = self.largest / (1 + self.largest)
        size = whole * 2.0 ** (-self.finest * uniform(named(key, "size"), len(sigma)))
        t = size + (whole - size) * uniform(named(key, "t"), len(sigma))
        r = jnp.maximum(t - size, 0.0)
        return t / (1 - t), r / (1 - r)

    def jumps(self, maps: Maps, x: Images, x0: Images, sigma: Rows, s: Rows, step: Array) -> tuple[Rows, Rows]:
        middle = (sigma / (1 + sigma) + s / (1 + s)) / 2
        m = middle / (1 - middle)
        x_m = moved(x, maps.average(x, sigma, m), sigma, m)
        x_s = moved(x_m, maps.average(x_m, m, s), m, s)
        ratio = per_image(s / sigma, x)
        both = (x_s - ratio * x) / (1 - ratio)  # the D of one jump that ends at x_s
        u_error = per_image((1 + sigma) / sigma, x) * (maps.learned(x, sigma, s) - jax.lax.stop_gradient(both))
        squares = mean_square(u_error)
        return squares, squares

    def weighted(self, losses: Rows) -> Rows:
        return losses


def moved(x: Images, x0: Images, sigma: Rows, s: Rows) -> Images:
    """x0 + (s / sigma) (x - x0)."""
    return x0 + per_image(s / sigma, x) * (x - x0)


def robust(error: Images, c: float) -> Rows:
    """sqrt(|e|^2 + c^2) - c of each image; the gradient is 0, not NaN, where both are."""
    squares = jnp.sum(error**2, axis=_inside(error)) + c**2
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0) - c


def mean_square(error: Images) -> Rows:
    """The mean square of each image."""
    return jnp.mean(error**2, axis=_inside(error))


def along(
    f: Callable[[Images, Rows], Images],
    x: Images,
    t: Rows,
    direction: Images,
    scale: Rows,
    window: float | None,
    *,
    lowest: Rows | None = None,
) -> tuple[Images, Images]:
    """(f, df/dt along dx/dt = direction), without gradients: by forward-mode differentiation, or, with a window, as

        (f(x + h direction, t + h) - f(x - h direction, t - h)) / 2 h,   h = window scale

    A network that embeds 1000 t, or Fourier features of a large scale, is rough in t between the times that it was
    trained at: its derivative says nothing, its difference over a window does. lowest: of t - h.
    """
    x, t, direction = (jax.lax.stop_gradient(each) for each in (x, t, direction))
    if window is None:
        with forward_differentiable():
            value, change = jax.jvp(f, (x, t), (direction, jnp.ones_like(t)))
    else:
        value, up = f(x, t), window * scale
        down = up if lowest is None else jnp.minimum(up, t - lowest)
        ends = [f(x + per_image(h, x) * direction, t + h) for h in (up, -down)]
        change = (ends[0] - ends[1]) / per_image(up + down, x)
    return jax.lax.stop_gradient(value), jax.lax.stop_gradient(change)


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowMapTask:
    """loss = mean over images of `losses`, but for the first `instants`, a share of the batch, whose losses are the
    task's: they learn s = sigma, the posterior mean, which samplers that integrate ask for.

    task: its network knows where it goes. exact: the same computed in float32, for derivatives. guidance: (lowest,
    highest) scale w of a guidance that is trained in, drawn uniformly for each image and told to the network; x is then
    led to x0 + (w - 1) (x0 - sg D(x, sigma, sigma)), D without conditions, in place of x0 (Geng et al., arXiv
    2505.13447, section 4.2). away_from: the conditions that D is without.
    """

    task: DiffusionTask
    exact: DiffusionTask
    losses: Loss
    instants: float
    guidance: tuple[float, float] | None = None
    away_from: tuple[str, ...] = ()

    @property
    def space(self) -> Space:
        return self.task.space

    @property
    def averaged(self) -> tuple[str, ...]:
        return self.task.averaged

    @property
    def sampling_task(self) -> DiffusionTask:
        return self.task

    @property
    def reads_average(self) -> bool:
        return isinstance(self.losses, Shortcut)

    def init(self, key: Array, batch: PyTree) -> tuple[PyTree, PyTree]:
        return self.task.init(key, batch)

    def loss(
        self, params: PyTree, state: PyTree, batch: PyTree, key: Array, step: Array, *, train: bool = True
    ) -> tuple[Array, tuple[PyTree, dict[str, Array]]]:
        weights, task = Weights(params, state), self.task
        x0, cond = task.examples(weights, batch, key, train=train)
        n = round(self.instants * len(x0))
        of_jumps = task.objective.sigmas(named(key, "sigma"), len(x0) - n)
        sigma, s = self.losses.levels(of_jumps, named(key, "levels"), step)
        if n:  # draws of their own: of a stratified draw, the first n are the lowest
            sigma = jnp.concatenate([task.objective.sigmas(named(key, "instants"), n), sigma])
        x = x0 + per_image(sigma, x0) * jax.random.normal(named(key, "eps"), x0.shape)
        if self.guidance:
            x0, cond = self._guided(weights, x, x0, sigma, cond, named(key, "guidance"))
        dropout = named(key, "dropout") if train else None
        losses, logs = [], {}
        if n:
            some = jax.tree.map(lambda rows: rows[:n], cond)
            own = None if dropout is None else named(dropout, "instants")
            at_once = task.denoises(weights, own)(x[:n], sigma[:n], some)
            instants = task.objective.losses(x0[:n], at_once.x0, sigma[:n])
            losses.append(self.losses.weighted(instants) if train else instants)
            logs["instant_error"] = jnp.mean(instants)
        if n < len(x0):
            maps = self._maps(weights, jax.tree.map(lambda rows: rows[n:], cond), dropout)
            jumps, errors = self.losses.jumps(maps, x[n:], x0[n:], sigma[n:], s, step)
            losses.append(jumps if train else errors)
            logs["jump_error"] = jnp.mean(errors)
        return jnp.mean(jnp.concatenate(losses)), (state, logs)

    def _maps(self, weights: Weights, cond: Cond, dropout: Array | None) -> Maps:
        def of(task: DiffusionTask, weights: Weights, dropout: Array | None) -> Map:
            denoise = task.denoises(weights, dropout)
            return lambda x, sigma, s: denoise(x, sigma, cond, s).x0

        still = jax.lax.stop_gradient(weights)
        average = Weights({**still.params, **still.state.get(AVERAGE, {})}, still.state)
        return Maps(
            learned=of(self.task, weights, dropout),
            still=of(self.task, still, dropout),
            exact=of(self.exact, still, dropout),
            average=of(self.task, average, None),
        )

    def merged(self, weights: Weights) -> Weights:
        return weights

    def init_from(self, weights: Weights, pretrained: Weights) -> Weights:
        return self.task.init_from(weights, pretrained)

    def _guided(
        self, weights: Weights, x: Images, x0: Images, sigma: Rows, cond: Cond, key: Array
    ) -> tuple[Images, dict[str, Any]]:
        """(what x is led to, the conditions with w). Where all conditions are dropped, nothing is guided."""
        assert self.guidance is not None
        low, high = self.guidance
        nothing = jnp.ones(len(x0), bool)
        drop = cond.get("drop", {})
        known = ~jnp.all(jnp.stack([drop.get(name, ~nothing) for name in self.away_from]), axis=0)
        w = jnp.where(known, jax.random.uniform(key, sigma.shape, minval=low, maxval=high), 1.0)
        without = self.task.denoises(jax.lax.stop_gradient(weights), None)(
            x, sigma, {**cond, "drop": {**drop, **dict.fromkeys(self.away_from, nothing)}}
        )
        return x0 + per_image(w - 1, x0) * (x0 - without.x0), {**cond, GUIDANCE_SCALE: w}


def _inside(x: Images) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))
