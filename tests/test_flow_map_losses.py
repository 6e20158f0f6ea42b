"""The losses of flow maps: their minimisers against exact flow maps, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdiff.common.keys import image_keys
from jdiff.diffusion import drivers
from jdiff.diffusion.denoiser import make_denoiser
from jdiff.diffusion.draws import LogNormal, uniform
from jdiff.diffusion.ladders import karras
from jdiff.diffusion.parameterization import Edm
from jdiff.diffusion.samplers import Heun
from jdiff.diffusion.schedules import EDM
from jdiff.tasks.flow_map import NEAREST, Consistency, ContinuousConsistency, Maps, MeanFlow, Seen, Shortcut, moved
from tests.closed_forms import GaussianFlowMap, mixture

MEAN, STD = 0.3, 0.5
EXACT = GaussianFlowMap(np.array([MEAN]), np.array([STD]))


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


def expectation():
    """(x0, eps, weight) of Gauss-Hermite nodes, over which means of polynomials are exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    x0, eps = np.meshgrid(MEAN + STD * nodes, nodes, indexing="ij")
    return x0.reshape(-1, 1), eps.reshape(-1, 1), np.outer(weights, weights).ravel() / weights.sum() ** 2


def features(x, sigma, s):
    """[B, 8]: (1, x) times (1 - c) (1, c, d, c d), c the share of signal, d how far the jump goes. They vanish at sigma
    = 0, as c_out does: without that boundary, any function of the flow's end would be a consistency function.
    """
    c, d = 1 / (1 + sigma), 1 - s / sigma
    of_levels = (1 - c)[:, None] * jnp.stack([jnp.ones_like(c), c, d, c * d], axis=1)
    return jnp.concatenate([of_levels, of_levels * x], axis=1)


def linear(theta):
    """The exact D and what is linear in the features: exact at theta = 0."""
    return lambda x, sigma, s: EXACT.denoise(x, sigma, {}, s).x0 + (features(x, sigma, s) @ theta)[:, None]


def semigradient(loss, levels, theta):
    """The gradient of the mean loss over x0, eps and these pairs of levels, targets being held."""
    x0, eps, weight = (jnp.asarray(each) for each in expectation())

    def mean_loss(learned):
        maps = Maps(linear(learned), linear(theta), linear(theta), linear(theta))
        total = 0.0
        for sigma, s in levels:
            at, to = jnp.full(len(x0), sigma), jnp.full(len(x0), s)
            total += jnp.sum(weight * loss.jumps(maps, x0 + sigma * eps, x0, at, to, jnp.int32(0))[0])
        return total

    return jax.grad(mean_loss)(theta)


JUMPS = [(sigma, share * sigma) for sigma in (0.1, 0.4, 1.5, 6.0) for share in (0.0, 0.4, 0.8)]
INSTANTS = [(sigma, sigma) for sigma in (0.1, 0.4, 1.5, 6.0)]
TO_ZERO = [(sigma, sigma) for sigma in (0.1, 0.3, 0.8, 2.0, 6.0)]
EXACT_AT_ZERO = {
    "mean_flow": (MeanFlow(to=LogNormal(), p=0.0), JUMPS + INSTANTS),
    "mean_flow, by differences": (MeanFlow(to=LogNormal(), p=0.0, window=1e-4), JUMPS + INSTANTS),
    "shortcut": (Shortcut(largest=80.0), JUMPS),
    "sCT": (ContinuousConsistency(sigma_data=STD, c=None), TO_ZERO),
    "sCT, by differences": (ContinuousConsistency(sigma_data=STD, c=None, window=1e-4), TO_ZERO),
}


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("name", EXACT_AT_ZERO)
def test_the_exact_flow_map_minimises(name):
    """Of a model that is linear in features: its semigradient vanishes at the exact flow map, and nowhere near else."""
    loss, levels = EXACT_AT_ZERO[name]
    force = jax.jit(partial(semigradient, loss, levels))
    zero = jnp.zeros(8)
    np.testing.assert_allclose(force(zero), 0.0, atol=1e-7 if "differences" in name else 1e-11)
    if name == "shortcut":  # its jumps alone agree with any flow: what the flow is, the instants tell
        return
    theta = jnp.asarray(np.random.default_rng(0).normal(size=8)) * 0.02
    if "sCT" in name:  # of jumps to 0 alone, d = 1: half of the features are the same
        theta, free = theta.at[jnp.array([2, 3, 6, 7])].set(0.0), jnp.array([0, 1, 4, 5])
    else:
        free = jnp.arange(8)
    assert np.abs(force(theta)).max() > 1e-5
    for _ in range(12):
        steps = 1e-4 * jnp.eye(8)[free]  # differences: what is held shows in no derivative
        slope = jnp.stack([(force(theta + d) - force(theta - d))[free] / 2e-4 for d in steps], axis=1)
        theta = theta.at[free].add(-jnp.linalg.solve(slope, force(theta)[free]))
    np.testing.assert_allclose(theta, 0.0, atol=1e-6)


@pytest.mark.usefixtures("_float64")
def test_consistency_tends_to_the_exact_one():
    """Of pairs at a finite distance the minimiser is off by O(1/q): E[D(x_s, s, 0) | x] is no flow."""
    off = {}
    for q in (16.0, 64.0, 256.0):
        loss, zero = Consistency(q=q, c=1e3), jnp.zeros(8)
        levels = [(s, float(loss.levels(jnp.asarray([s]), jax.random.key(0), jnp.int32(0))[1][0])) for s, _ in TO_ZERO]
        off[q] = np.abs(semigradient(loss, levels, zero)).max()
    assert off[64.0] < off[16.0] / 3
    assert off[256.0] < off[64.0] / 3


@pytest.mark.usefixtures("_float64")
def test_the_gradient_of_near_pairs_is_the_continuous_one():
    """c >> |e|: the robust norm is e^2 / 2 c, whose gradient over (sigma - s) is dD/dsigma grad D / c. That of sCT is
    2 g grad F / dimensions, g = cos(t) dD/dt, with F = D / (sigma_d sin(t)) + ...; dsigma/dt = sigma_d / cos^2(t).
    """
    x0, eps, _ = (jnp.asarray(each) for each in expectation())
    sigma = jnp.full(len(x0), 0.7)
    theta = jnp.asarray(np.random.default_rng(1).normal(size=8))
    x, c = x0 + sigma[:, None] * eps, 1e4

    def gradient(loss, s):
        def mean_loss(learned):
            maps = Maps(linear(learned), *[linear(theta)] * 3)
            return jnp.mean(loss.jumps(maps, x, x0, sigma, s, jnp.int32(0))[0])

        return jax.grad(mean_loss)(theta)

    t = jnp.arctan(0.7 / STD)
    to_scale = 2 * STD / jnp.cos(t) / (STD * jnp.sin(t))
    limit = gradient(ContinuousConsistency(sigma_data=STD, c=None), sigma) / to_scale
    errors = []
    for d in (1e-2, 1e-3, 1e-4):
        near = c * gradient(Consistency(c=c), sigma - d)
        errors.append(float(jnp.abs(near - limit).max() / jnp.abs(limit).max()))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3


@pytest.mark.usefixtures("_float64")
def test_flow_coordinates_give_the_average_velocity():
    """z_r = z - (t - r) u with u = (z - D) / t is where the flow leads, and u at r = t is v."""
    x, sigma, s = jnp.linspace(-3, 3, 9)[:, None], jnp.full(9, 2.0), jnp.full(9, 0.5)
    t, r, z = sigma / (1 + sigma), s / (1 + s), x / (1 + sigma[:, None])
    u = (z - EXACT.denoise(x, sigma, {}, s).x0) / t[:, None]
    there = EXACT.flow(x, 2.0, 0.5)
    np.testing.assert_allclose(z - (t - r)[:, None] * u, there / 1.5, atol=1e-14)
    np.testing.assert_allclose(moved(x, EXACT.denoise(x, sigma, {}, s).x0, sigma, s), there, atol=1e-14)


def test_pairs_follow_the_papers_mapping():
    sigma = jnp.asarray([0.01, 0.5, 2.0, 80.0])
    n = 1 + 8 / (1 + np.exp(np.asarray(sigma)))
    for step, q, stage in ((0, 2.0, 1), (999, 2.0, 1), (1000, 2.0, 2), (5500, 2.0, 6), (0, 256.0, 1)):
        loss = Consistency(q=q, stage_images=1000.0)
        high, s = loss.levels(sigma, jax.random.key(0), jnp.int32(step))
        np.testing.assert_allclose(s, sigma * np.maximum(0, 1 - n / q**stage), rtol=1e-5, atol=1e-7)
        assert (high == sigma).all()


def test_stages_count_images_and_end():
    """They go on where another batch size takes over, and end before float32 rounds two levels to one."""
    seen = Seen(batch_size=64, since=1000, images=128_000)
    assert [float(seen(jnp.int32(step))) for step in (1000, 1100)] == [128_000, 134_400]
    sigma, key = jnp.asarray([0.01, 0.5, 80.0]), jax.random.key(0)
    before = Consistency(q=2.0, stage_images=64_000.0, seen=Seen(batch_size=128)).levels(sigma, key, jnp.int32(1000))
    after = Consistency(q=2.0, stage_images=64_000.0, seen=seen).levels(sigma, key, jnp.int32(1000))
    np.testing.assert_array_equal(before[1], after[1])
    late = Consistency(q=2.0, stage_images=1.0).levels(sigma, key, jnp.int32(100))[1]
    assert (late < sigma).all()
    np.testing.assert_allclose(1 - late / sigma, (1 + 8 / (1 + np.exp(np.asarray(sigma)))) / NEAREST, rtol=2e-2)


def test_other_pairs_are_ordered():
    sigma = LogNormal()(uniform(jax.random.key(0), 4096))
    for loss in (MeanFlow(to=LogNormal(-4.0, 1.6)), Shortcut(largest=80.0)):
        high, s = loss.levels(sigma, jax.random.key(1), jnp.int32(0))
        assert (s >= 0).all()
        assert (s <= high).all()
        assert (high <= 1e4).all()
    t, r = high / (1 + high), s / (1 + s)
    sizes = np.log2(np.asarray((t - r) / (80 / 81)))
    assert sizes.min() >= -7.01
    assert sizes.max() <= 0
    np.testing.assert_allclose(np.mean(sizes), -3.5, atol=0.2)


def test_a_boundary_pair_takes_x0():
    """q = 2: at high noise the pair's lower level is 0, where D is not asked."""
    loss, x0 = Consistency(q=2.0), jnp.ones((3, 2))
    sigma = jnp.asarray([0.3, 1.0, 2.0])
    _, s = loss.levels(sigma, jax.random.key(0), jnp.int32(0))
    assert (s[:2] == 0).all()
    assert s[2] > 0
    sigma, s = sigma.at[2].set(0.9), s.at[2].set(0.0)
    asked = []

    def still(x, sigma, s):
        asked.append(sigma)
        return jnp.full_like(x, jnp.nan)

    zero = lambda x, sigma, s: jnp.zeros_like(x)  # noqa: E731
    losses, errors = loss.jumps(Maps(zero, still, zero, zero), x0, x0, sigma, s, jnp.int32(0))
    np.testing.assert_allclose(losses, np.sqrt(2.0) / sigma, rtol=1e-6)
    np.testing.assert_allclose(errors, 1.0)
    assert (asked[0] > 0).all()


DATA = mixture(2)
TRAINED = {
    "consistency": (Consistency(q=256.0, c=0.03), 0.0),
    "continuous_consistency": (ContinuousConsistency(sigma_data=1.0, c=0.1), 0.0),
    "mean_flow": (MeanFlow(to=LogNormal(-0.6, 1.6), p=1.0), 0.5),
    "shortcut": (Shortcut(largest=20.0), 0.5),
}
SIGMA_MAX = 20.0
STEPS = 2000


def mlp(width=64):
    """(init, apply(params, x, sigma, s) -> D) of a small network of 2-D points, in EDM's coordinates."""

    def inputs(x, c_noise, cond):
        return jnp.concatenate(
            [x, c_noise[:, None], cond["jump"], jnp.sin(2 * cond["jump"]), cond["jump"] ** 2], axis=1
        )

    def init(key):
        sizes, keys = (9, width, width, 2), jax.random.split(key, 3)
        return [
            (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
            for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]

    def apply(params, x, sigma, s):
        def network(x, c_noise, cond):
            h = inputs(x, c_noise, cond)
            for weight, bias in params[:-1]:
                h = jax.nn.silu(h @ weight + bias)
            return h @ params[-1][0] + params[-1][1]

        return make_denoiser(network, Edm(EDM(), 1.0), jumps=True)(x, sigma, {}, s).x0

    return init, apply


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_a_small_network_learns_the_flow_of_a_mixture(name):
    """One jump from sigma = 20, and two through 1, end where the fine flow does, within 0.25 (root mean square; the
    data's deviation is about 1). The ordinary denoiser's one call is off by 0.5.
    """
    loss, share = TRAINED[name]
    init, apply = mlp()
    params = init(jax.random.key(0))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def step(state, key):
        params, average, opt_state = state
        keys = jax.random.split(key, 4)
        x0 = DATA.draw(keys[0], 256).astype(jnp.float32)
        n = round(share * len(x0))
        sigma = jnp.minimum(LogNormal(-0.3, 1.6)(uniform(keys[1], len(x0))), 2 * SIGMA_MAX)
        high, s = loss.levels(sigma[n:], keys[2], jnp.int32(0))
        sigma = jnp.concatenate([sigma[:n], high])
        x = x0 + sigma[:, None] * jax.random.normal(keys[3], x0.shape)

        def mean_loss(params):
            held = partial(apply, jax.lax.stop_gradient(params))
            maps = Maps(partial(apply, params), held, held, partial(apply, average))
            losses = [loss.jumps(maps, x[n:], x0[n:], sigma[n:], s, jnp.int32(0))[0]]
            if n:
                errors = (1 + sigma[:n] ** -2) * jnp.mean((apply(params, x[:n], sigma[:n], sigma[:n]) - x0[:n]) ** 2, 1)
                losses.append(loss.weighted(errors))
            return jnp.mean(jnp.concatenate(losses))

        updates, opt_state = optimizer.update(jax.grad(mean_loss)(params), opt_state)
        params = optax.apply_updates(params, updates)
        return (params, jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, params), opt_state), None

    start = (params, jax.tree.map(jnp.copy, params), optimizer.init(params))
    (_, average, _), _ = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(
        start, jax.random.split(jax.random.key(1), STEPS)
    )
    x = SIGMA_MAX * jax.random.normal(jax.random.key(2), (1024, 2))
    keys = image_keys(0, jnp.arange(len(x)))
    fine = jnp.asarray(karras(200, sigma_min=1e-3, sigma_max=SIGMA_MAX), jnp.float32)
    exact = drivers.scan(Heun(steps=200), DATA.denoise, x, fine, {}, keys).x0

    def off(ends):
        return float(jnp.sqrt(jnp.mean((ends - exact) ** 2)))

    at, zero = jnp.full(len(x), SIGMA_MAX), jnp.zeros(len(x))
    untrained = off(DATA.denoise(x, at, {}).x0)
    ends = [off(apply(average, x, at, zero))]
    if share:  # jumps anywhere
        middle = moved(x, apply(average, x, at, zero + 1), at, zero + 1)
        ends.append(off(apply(average, middle, zero + 1, zero)))
    assert max(ends) < 0.25 < untrained / 2, (ends, untrained)
