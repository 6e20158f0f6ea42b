"""The UNet's blocks, resampling and attention, against direct convolutions and NumPy."""

import itertools
import math
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.networks import attention
from jdiff.networks.attention import CrossAttention, MultiHead, SelfAttention, SpatialTransformer, attend, head_count
from jdiff.networks.convolution import _im2col, conv2d
from jdiff.networks.layers import Conv, Norm, Style
from jdiff.networks.resample import Downsample, Upsample, resample
from jdiff.networks.unet import BLOCKS, UNet
from tests.arrays import drawn, noise

KEY = jax.random.key(0)
# Convolutions whose bias an instance norm, following at once, takes away again.
BEFORE_A_NORM = {
    "residual": {"conv_0"},
    "vgg": {"conv_0", "conv_1"},
    "dense": {"conv_0", "conv_1", "conv_2"},
    "inception": {"point", "near_1", "far_2", "mean"},
}


def applied(module, params, *inputs):
    static = tuple(i + 1 for i, value in enumerate(inputs) if isinstance(value, bool))
    return np.asarray(jax.jit(module.apply, static_argnums=static)(params, *inputs))


# Blocks


NORMS, FILTERS = ("group", "layer", "rms", "instance"), ("box", "fir")
SIDES: dict[str, tuple[int, int]] = {"none": (6, 4), "down": (3, 2), "up": (12, 8)}  # of an image of 6 x 4


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_block_in_every_style(kind):
    """Odd numbers of channels and an oblong image."""
    x, embedding = noise(2, 6, 4, 5), noise(2, 3)
    for norm, way, resample_filter in itertools.product(NORMS, SIDES, FILTERS):
        block = BLOCKS[kind](7, Style(norm=norm, resample_filter=resample_filter), way)
        out = jax.eval_shape(lambda *xs, block=block: block.init_with_output(*xs, False)[0], KEY, x, embedding)
        assert out.shape == (2, *SIDES[way], 7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", BLOCKS)
def test_every_parameter_of_a_block_counts(kind, norm):
    """And the numbers are finite. The ways to halve, double and embed take turns, so that each meets each."""
    row, column = list(BLOCKS).index(kind), NORMS.index(norm)
    way, resample_filter = [*itertools.product(("down", "up"), FILTERS)][(row + column) % 4]
    style = Style(norm=norm, resample_filter=resample_filter, scale_shift=(row // 2 + column) % 2 == 0)
    block = BLOCKS[kind](7, style, way)
    x, embedding, probe = noise(2, 6, 4, 5), noise(2, 3), noise(2, *SIDES[way], 7, seed=1)
    params = drawn(block, x, embedding, False)

    @jax.jit
    def answers(params, x, embedding):
        def loss(params, embedding):
            out = block.apply(params, x, embedding, False)
            return jnp.sum(out * probe), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, embedding)

    (_, out), (gradients, of_embedding) = answers(params, x, embedding)
    assert out.shape == (2, *SIDES[way], 7)
    assert np.isfinite(out).all()
    assert np.std(out) > 0.05
    assert np.abs(of_embedding).min() > 1e-4
    for path, gradient in jax.tree.leaves_with_path(gradients):
        names = [key.key for key in path]
        dead = norm == "instance" and names[-1] == "bias" and names[-2] in BEFORE_A_NORM[kind]
        assert (np.abs(gradient).max() > 1e-3) != dead, "/".join(names)


def test_published_blocks_have_the_layers_they_say():
    """1x1 skip branches only where they are needed, and what ends a residual branch begins at zero."""
    x, embedding = noise(1, 4, 4, 8), noise(1, 4)

    def params(kind, features, way, **style):
        block = BLOCKS[kind](features, Style(**style), resample=way)
        return jax.eval_shape(lambda *xs: block.init(KEY, *xs, False), x, embedding)["params"]

    assert "skip" not in params("residual", 8, "none")
    assert "skip" in params("residual", 8, "down")
    assert "skip" not in params("residual", 8, "down", project_resampled=False)
    assert "skip" in params("residual", 12, "none", project_resampled=False)
    assert "skip" in params("inception", 12, "none")
    for kind in ("residual", "inception"):
        assert "skip" not in params(kind, 8, "none")
        block = BLOCKS[kind](8, Style(skip_scale=math.sqrt(0.5)))
        out, _ = jax.jit(lambda *xs, block=block: block.init_with_output(KEY, *xs, False))(x, embedding)
        np.testing.assert_allclose(out, x * math.sqrt(0.5), rtol=1e-6)
    assert params("dense", 6, "none")["conv_2"]["kernel"].shape == (3, 3, 8 + 2 * 3, 3)
    assert params("dense", 6, "none")["transition"]["kernel"].shape == (1, 1, 8 + 3 * 3, 6)
    assert params("inception", 6, "none")["far_2"]["kernel"].shape == (3, 3, 1, 1)


def test_a_residual_block_is_its_formula():
    """With NumPy's norms and lax's convolutions, as published (2006.11239, appendix B; 2105.05233, section 3)."""
    x, embedding = noise(2, 4, 6, 8), noise(2, 3, seed=1)

    def normed(h, p):
        groups = h.reshape(*h.shape[:3], 2, -1)  # 8 channels: 2 groups of 4
        centred = groups - groups.mean((1, 2, 4), keepdims=True)
        unit = centred / np.sqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-6)
        return unit.reshape(h.shape) * p["norm"]["scale"] + p["norm"]["bias"]

    def silu(h):
        return h / (1 + np.exp(-h))

    for scale_shift in (True, False):
        block = BLOCKS["residual"](8, Style(scale_shift=scale_shift, skip_scale=0.5))
        params = drawn(block, x, embedding, False)
        p = params["params"]
        h = convolved(silu(normed(x, p["norm_0"])), p["conv_0"]["kernel"]) + p["conv_0"]["bias"]
        linear = p["modulation"]["embedding"]
        shift = (embedding @ linear["kernel"] + linear["bias"])[:, None, None]
        if scale_shift:
            scale, shift = np.split(shift, 2, axis=-1)
            h = normed(h, p["modulation"]["norm"]) * (1 + scale) + shift
        else:
            h = normed(h + shift, p["modulation"]["norm"])
        h = convolved(silu(h), p["conv_1"]["kernel"]) + p["conv_1"]["bias"]
        np.testing.assert_allclose(applied(block, params, x, embedding, False), 0.5 * (x + h), rtol=1e-3, atol=1e-4)


def test_dropout_is_in_every_block_and_only_in_training():
    x, embedding = noise(1, 4, 4, 8), noise(1, 4)
    for kind in BLOCKS:
        block = BLOCKS[kind](8, Style(dropout=0.5))
        params = drawn(block, x, embedding, False)
        out = jax.jit(
            lambda p, train, key, block=block: block.apply(
                p, jnp.asarray(x), jnp.asarray(embedding), train, rngs={"dropout": key}
            ),
            static_argnums=1,
        )
        keys = jax.random.split(KEY, 2)
        np.testing.assert_array_equal(out(params, False, keys[0]), out(params, False, keys[1]))
        assert np.abs(out(params, True, keys[0]) - out(params, True, keys[1])).max() > 1e-2, kind


@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_over_what_they_say(norm):
    """Without scale and shift: mean 0 and mean square 1 over those places, whatever came in, and nothing else mixed."""
    x = 3 * noise(2, 5, 3, 8) + 4
    out = applied(Norm(Style(norm=norm)), jax.jit(Norm(Style(norm=norm)).init)(KEY, x), x)
    if norm == "group":  # 2 groups of 4
        out, over = out.reshape(2, 15, 2, 4), (1, 3)
    else:
        over = {"layer": 3, "rms": 3, "instance": (1, 2)}[norm]
    np.testing.assert_allclose((out**2).mean(over), 1, rtol=1e-4)
    if norm == "rms":
        np.testing.assert_allclose(out, x / np.sqrt((x**2).mean(-1, keepdims=True)), rtol=1e-4)
    else:
        np.testing.assert_allclose(out.mean(over), 0, atol=1e-4)


@pytest.mark.parametrize("kind", ["vgg", "dense", "inception"])
def test_a_unet_of_any_block_takes_any_style(kind):
    """As the parts meet in it: levels, halving in blocks, the image again at every level."""
    style = Style(norm="rms", resample_filter="fir", skip_scale=math.sqrt(0.5))
    fields = {"channels": 6, "channel_mults": (1, 2), "blocks_per_level": 1, "resample": "residual", "input_skip": True}
    network = UNet(out_channels=3, block=kind, attention_levels=(), middle_attention=False, style=style, **fields)
    x, times = noise(2, 4, 6, 3), noise(2)
    params = drawn(network, x, times, {})
    run = jax.jit(network.apply)
    out = run(params, x, times, {})
    assert out.shape == x.shape
    assert np.isfinite(out).all()
    assert np.abs(run(params, x, times + 1, {}) - out).max() > 1e-3


# Halving and doubling

resampled = jax.jit(resample, static_argnums=(1, 2))


def convolved(x, kernel, *, stride=1, padding=(1, 1), dilation=1):
    """lax's convolution, either axis alike; `dilation` of the image."""
    return np.asarray(
        jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [padding] * 2,
            lhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    )


def each_channel(taps, channels):
    """The kernel [4, 4, c, c] that filters every channel by itself, rows and columns alike."""
    return np.einsum("u,v,cd->uvcd", taps, taps, np.eye(channels)).astype(np.float32)


FIR = np.array([1, 3, 3, 1], np.float32)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (6, 10, 3), (2, 4, 5)])
def test_the_fir_filter_is_a_convolution(height, width, channels):
    """Halving: [1, 3, 3, 1] / 8 on each axis, stride 2. Doubling: zeros between the pixels, then [1, 3, 3, 1] / 4."""
    x = noise(2, height, width, channels)
    down = convolved(x, each_channel(FIR / 8, channels), stride=2)
    np.testing.assert_allclose(resampled(x, "down", "fir"), down, rtol=1e-5, atol=1e-6)
    up = convolved(x, each_channel(FIR / 4, channels), padding=(2, 2), dilation=2)
    np.testing.assert_allclose(resampled(x, "up", "fir"), up, rtol=1e-5, atol=1e-6)


def test_the_fir_filter_keeps_constants_within_and_darkens_the_edge():
    """Outside there are zeros, so the outermost pixels have 7/8 (halved) and 3/4 (doubled) of the constant, an axis."""
    ones = jnp.ones((1, 8, 8, 2))
    down, up = (np.asarray(resampled(ones, way, "fir")) for way in ("down", "up"))
    np.testing.assert_array_equal(down[:, 1:-1, 1:-1], 1)
    np.testing.assert_array_equal(up[:, 1:-1, 1:-1], 1)
    np.testing.assert_array_equal(down[:, 0, 1:-1], 7 / 8)
    np.testing.assert_array_equal(up[:, 1:-1, -1], 3 / 4)
    np.testing.assert_array_equal(down[:, 0, -1], 49 / 64)


def test_the_fir_filter_moves_no_image():
    """Both are symmetric about the image's middle, and doubling is halving's adjoint, but for a factor of 4."""
    x, y = noise(1, 6, 4, 1), noise(1, 3, 2, 1, seed=1)
    for way in ("down", "up"):
        for axis in (1, 2):
            mirrored = resampled(np.flip(x, axis), way, "fir")
            np.testing.assert_allclose(mirrored, np.flip(resampled(x, way, "fir"), axis), rtol=1e-5, atol=1e-6)
    there, back = np.vdot(resampled(x, "down", "fir"), y), np.vdot(x, resampled(y, "up", "fir"))
    assert float(back) == pytest.approx(4 * float(there), rel=1e-4)


def test_the_box_filter_is_means_and_copies():
    x = noise(2, 6, 4, 3)
    down = x.reshape(2, 3, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(resampled(x, "down"), down, rtol=1e-5, atol=1e-6)
    up = np.asarray(resampled(x, "up"))
    np.testing.assert_array_equal(up, x.repeat(2, axis=1).repeat(2, axis=2))
    np.testing.assert_allclose(resampled(up, "down"), x, rtol=1e-6)
    np.testing.assert_array_equal(resampled(x, "none"), x)


@pytest.mark.parametrize("resample_filter", ["box", "fir"])
def test_resampling_layers(resample_filter):
    """A convolution of stride 2, or of stride 1 on what the FIR filter left; doubled, then convolved; or neither."""
    x, style = noise(2, 6, 4, 3), Style(resample_filter=resample_filter)
    down, up = Downsample("conv", style), Upsample("conv", style)
    halved, doubled = (resampled(x, way, resample_filter) for way in ("down", "up"))
    for layer, before, stride in ((down, x if resample_filter == "box" else halved, None), (up, doubled, 1)):
        params = drawn(layer, x)
        conv = params["params"]["conv"]
        stride = stride or (2 if resample_filter == "box" else 1)
        expected = convolved(before, conv["kernel"], stride=stride) + conv["bias"]
        np.testing.assert_allclose(applied(layer, params, x), expected, rtol=1e-4, atol=1e-5)
    for layer, expected in ((Downsample("pool", style), halved), (Upsample("pool", style), doubled)):
        assert not jax.eval_shape(layer.init, KEY, x)
        np.testing.assert_allclose(applied(layer, {}, x), expected, rtol=1e-6)


@pytest.mark.parametrize("padding", [(0, 1), (1, 1), (1, 0)])
@pytest.mark.parametrize("sides", [(8, 6), (7, 5)])
def test_padded_convolutions_are_laxs(padding, sides):
    """Of published networks: a zero after, and none before."""
    x, kernel = noise(2, *sides, 5), noise(3, 3, 5, 4, seed=1)
    for stride in (1, 2):
        expected = convolved(x, kernel, stride=stride, padding=padding)
        out = jax.jit(partial(conv2d, stride=stride, padding=padding))(x, kernel)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)
        products = jax.jit(_im2col, static_argnums=(2, 3, 4))(x, kernel, stride, *padding)
        np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-4)
    layer, style = Conv(4, stride=2, padding=padding), Style()
    np.testing.assert_allclose(
        applied(layer, {"params": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}, x),
        convolved(x, kernel, stride=2, padding=padding),
        rtol=1e-4,
        atol=1e-4,
    )
    down = Downsample("conv", style, padding)
    params = drawn(down, x)
    expected = convolved(x, params["params"]["conv"]["kernel"], stride=2, padding=padding)
    expected = expected + params["params"]["conv"]["bias"]
    np.testing.assert_allclose(applied(down, params, x), expected, rtol=1e-4, atol=1e-4)


# Attention


def softmax_attention(q, k, v, mask=None):
    """softmax(q k^T / sqrt(d)) v in float64, [b, t, n, d]."""
    q, k, v = (np.asarray(part, np.float64) for part in (q, k, v))
    logits = np.einsum("btnd,bsnd->bnts", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = np.where(mask[:, None, None], logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bnts,bsnd->btnd", weights / weights.sum(-1, keepdims=True), v)


def linear(p, x):
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p.get("bias", 0.0), np.float64)


def multi_head(p, x, context, heads, mask=None):
    q, k, v = (
        linear(p[name], tokens).reshape(*tokens.shape[:2], heads, -1)
        for name, tokens in (("q", x), ("k", context), ("v", context))
    )
    return linear(p["out"], softmax_attention(q, k, v, mask).reshape(x.shape))


def layer_norm(p, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


MASK = np.array([[True, True, False, True, False], [True, False, False, False, False]])


@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_a_softmax(masked):
    q, k, v = noise(2, 4, 3, 8), noise(2, 5, 3, 8, seed=1), noise(2, 5, 3, 8, seed=2)
    mask = MASK if masked else None
    out = jax.jit(attend)(3 * q, k, v, mask)
    np.testing.assert_allclose(out, softmax_attention(3 * q, k, v, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_self_attention_over_the_pixels(heads):
    x = noise(2, 3, 4, 6)
    layer = SelfAttention(Style(norm="layer", skip_scale=0.5), heads)
    params = drawn(layer, x)
    p, tokens = params["params"], x.reshape(2, 12, 6).astype(np.float64)
    normed = layer_norm(p["norm"]["norm"], tokens, 1e-6)
    expected = 0.5 * (tokens + multi_head(p["attention"], normed, normed, heads)).reshape(x.shape)
    np.testing.assert_allclose(applied(layer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_cross_attention_to_the_tokens_of_a_context():
    x, context = noise(2, 3, 4, 6), noise(2, 5, 9, seed=1)
    layer = CrossAttention(Style(norm="layer"), 2)
    params = drawn(layer, x, context)
    p, tokens = params["params"], x.reshape(2, 12, 6).astype(np.float64)
    normed = layer_norm(p["norm"]["norm"], tokens, 1e-6)
    for mask in (None, MASK):
        expected = (tokens + multi_head(p["attention"], normed, context, 2, mask)).reshape(x.shape)
        np.testing.assert_allclose(applied(layer, params, x, context, mask), expected, rtol=1e-4, atol=1e-5)


def test_what_the_mask_leaves_out_is_not_seen():
    x, context = jnp.asarray(noise(2, 3, 4, 6)), noise(2, 5, 9, seed=1)
    changed = np.where(MASK[..., None], context, 100 * noise(2, 5, 9, seed=2))
    for layer in (CrossAttention(Style()), SpatialTransformer(Style())):
        params = drawn(layer, x, context)
        run = jax.jit(lambda context, mask, layer=layer, params=params: layer.apply(params, x, context, mask))
        np.testing.assert_array_equal(run(context, MASK), run(changed, MASK))
        assert np.abs(run(context, MASK) - run(context, np.ones((2, 5), bool))).max() > 1e-3
        assert np.abs(run(changed, np.ones((2, 5), bool)) - run(context, MASK)).max() > 1e-3


@pytest.mark.parametrize("crossed", [True, False])
def test_a_spatial_transformer_is_its_formula(crossed):
    """Without a context, self-attention and feed-forward alone (2112.10752, appendix E.2.1)."""
    from scipy.special import erf

    x, context = noise(2, 2, 3, 8), noise(2, 5, 9, seed=1) if crossed else None
    layer = SpatialTransformer(Style(norm="rms", skip_scale=0.5), heads=2, depth=2)
    params = drawn(layer, x, context)
    p = params["params"]
    cross = {name for name in p if name.startswith("cross")}
    assert cross == ({"cross_0", "cross_1", "cross_norm_0", "cross_norm_1"} if crossed else set())

    groups = x.astype(np.float64).reshape(2, 6, 2, 4)  # 2 groups of 4 channels, whatever the style's norm
    centred = groups - groups.mean((1, 3), keepdims=True)
    unit = (centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-6)).reshape(2, 6, 8)
    h = linear(p["in"], unit * p["norm"]["norm"]["scale"] + p["norm"]["norm"]["bias"])
    for i in range(2):
        tokens = layer_norm(p[f"self_norm_{i}"], h, 1e-5)
        h = h + multi_head(p[f"self_{i}"], tokens, tokens, 2)
        if crossed:
            h = h + multi_head(p[f"cross_{i}"], layer_norm(p[f"cross_norm_{i}"], h, 1e-5), context, 2, MASK)
        value, gate = np.split(linear(p[f"wide_{i}"], layer_norm(p[f"wide_norm_{i}"], h, 1e-5)), 2, axis=-1)
        h = h + linear(p[f"narrow_{i}"], value * gate * 0.5 * (1 + erf(gate / math.sqrt(2))))
    expected = 0.5 * (x + linear(p["out"], h).reshape(x.shape))
    out = applied(layer, params, x, context, MASK if crossed else None)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    assert "bias" not in p["self_0"]["q"]


def test_attention_starts_as_the_identity():
    x, context = noise(1, 2, 2, 4), noise(1, 3, 5)
    for layer, inputs in (
        (SelfAttention(Style()), ()),
        (CrossAttention(Style()), (context,)),
        (SpatialTransformer(Style()), (context,)),
    ):
        out, _ = jax.jit(layer.init_with_output)(KEY, x, *inputs)
        np.testing.assert_array_equal(out, x)


def test_heads_by_number_and_by_width():
    """4 heads of 8 channels are 4 heads, of 32 channels; and they are not one head of 32."""
    assert head_count(32, 4, 0) == head_count(32, 1, 8) == 4
    assert head_count(64, 4, 8) == 8  # the width goes first
    network = {"out_channels": 1, "channels": 8, "channel_mults": (2,), "blocks_per_level": 1, "attention_levels": ()}
    x, times = noise(1, 4, 4, 1), noise(1)
    by_number, by_width, one = (
        UNet(**choice, **network)
        for choice in ({"attention_heads": (4,)}, {"head_channels": 4, "attention_heads": 1}, {"attention_heads": 1})
    )
    params = drawn(by_number, x, times, {})
    number, width, single = (applied(unet, params, x, times, {}) for unet in (by_number, by_width, one))
    np.testing.assert_array_equal(number, width)
    assert np.abs(number - single).max() > 1e-4


@pytest.mark.parametrize(
    ("channels", "heads", "head_channels", "message"),
    [
        (32, 3, 0, "32 channels do not divide by 3 attention heads"),
        (32, 1, 12, "32 channels do not divide into attention heads of 12"),
        (32, 1, 64, "32 channels do not divide into attention heads of 64"),
    ],
)
def test_heads_that_do_not_divide(channels, heads, head_channels, message):
    with pytest.raises(ValueError, match=message):
        head_count(channels, heads, head_channels)
    network = UNet(
        out_channels=1,
        channels=channels,
        channel_mults=(1,),
        blocks_per_level=1,
        attention_levels=(0,),
        attention_heads=heads,
        head_channels=head_channels,
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(network.init, KEY, noise(1, 4, 4, 1), noise(1), {})


# Which implementation


def shapes(tokens=64, keys=None, width=64, dtype=jnp.bfloat16):
    return (jnp.zeros((1, count, 1, width), dtype) for count in (tokens, keys or tokens))


@pytest.mark.parametrize(
    ("case", "masked", "expected"),
    [
        ({}, False, "cudnn"),
        ({"dtype": jnp.float16}, False, "cudnn"),
        ({"keys": 2, "width": 8}, False, "cudnn"),
        ({"tokens": 4096, "width": 128}, False, "cudnn"),
        ({}, True, "xla"),
        ({"dtype": jnp.float32}, False, "xla"),
        ({"width": 20}, False, "xla"),
        ({"width": 136}, False, "xla"),
        ({"tokens": 62}, False, "xla"),
        ({"tokens": 65}, False, "xla"),
        ({"keys": 77}, False, "xla"),
    ],
)
def test_flash_attention_only_where_its_kernels_fit(case, masked, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert attention.implementation(*shapes(**case), masked=masked) == "xla"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for capability, fits in (("8.0", True), ("10.3", True), ("7.5", False), ("gfx942", False)):
        device = SimpleNamespace(compute_capability=capability)
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        chosen = attention.implementation(*shapes(**case), masked=masked)
        assert chosen == (expected if fits else "xla"), capability


def test_where_forward_derivatives_are_taken_attention_is_plain(monkeypatch):
    monkeypatch.setattr(attention, "_has_kernels", lambda: True)
    assert attention.implementation(*shapes(), masked=False) == "cudnn"
    with attention.forward_differentiable():
        assert attention.implementation(*shapes(), masked=False) == "xla"
    assert attention.implementation(*shapes(), masked=False) == "cudnn"


def test_layers_ask_for_what_implementation_says(monkeypatch):
    """MultiHead in 16 bits goes through cuDNN's kernels, and is masked only where there is a mask."""
    asked = []

    def spy(q, k, v, *, mask=None, implementation=None):
        asked.append((implementation, None if mask is None else mask.shape))
        return q

    monkeypatch.setattr(attention, "_has_kernels", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    x = jnp.zeros((1, 64, 32))
    for dtype, mask in ((jnp.bfloat16, None), (jnp.bfloat16, jnp.ones((1, 64), bool)), (jnp.float32, None)):
        jax.eval_shape(MultiHead(2, dtype=dtype).init, KEY, x, None, mask)
    assert asked == [("cudnn", None), (None, (1, 1, 1, 64)), (None, None)]


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
@pytest.mark.parametrize(("tokens", "keys"), [(64, 64), (256, 78)])
def test_both_implementations_agree(tokens, keys):
    """Values and gradients, within what 16 bits can hold."""
    q, k, v = (jnp.asarray(noise(2, n, 4, 64, seed=n), jnp.bfloat16) for n in (tokens, keys, keys))
    assert attention.implementation(q, k, masked=False) == "cudnn"

    def answers(implementation):
        def loss(q, k, v):
            out = jax.nn.dot_product_attention(q, k, v, implementation=implementation)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    (_, flash), flash_gradients = answers("cudnn")
    (_, plain), plain_gradients = answers("xla")
    np.testing.assert_allclose(*(np.asarray(out, np.float32) for out in (flash, plain)), atol=0.02)
    for ours, theirs in zip(flash_gradients, plain_gradients, strict=True):
        ours, theirs = (np.asarray(gradient, np.float32) for gradient in (ours, theirs))
        assert np.linalg.norm(ours - theirs) < 0.03 * np.linalg.norm(theirs)
