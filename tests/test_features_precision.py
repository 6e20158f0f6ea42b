"""Feature networks multiply in full float32 also where the default is less: a GPU's TF32 has errors of 1e-3."""

import jax
import jax.numpy as jnp
import pytest

from jdiff.networks.features.clip_vision import CLIPVision
from jdiff.networks.features.dinov2 import DINOv2
from jdiff.networks.features.inception import CLEAN, Inception
from jdiff.networks.features.lpips import LPIPS

NETWORKS = {
    "inception": (Inception(), 299, 1),
    "dinov2": (DINOv2(features=16, depth=1, heads=2, grid=2, registers=1), 42, 1),
    "clip": (CLIPVision(features=16, depth=1, heads=2, patch_size=14, grid=2, projection=8), 28, 1),
    "vgg": (LPIPS("vgg"), 32, 2),
    "alex": (LPIPS("alex"), 32, 2),
}


def products(program: str) -> list[str]:
    """The precision of each convolution and matrix product of a lowered program."""
    lines = [
        line for line in program.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    return ["full" if line.count("HIGHEST") == 2 else line for line in lines]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_multiply_in_full_float32(name):
    network, side, inputs = NETWORKS[name]
    images = [jnp.zeros((1, side, side, 3))] * inputs
    params = jax.eval_shape(network.init, jax.random.key(0), *images)
    found = products(jax.jit(network.apply).lower(params, *images).as_text())
    assert found
    assert set(found) == {"full"}


def test_resizes_multiply_in_full_float32():
    found = products(jax.jit(CLEAN).lower(jnp.zeros((1, 32, 40, 3), jnp.uint8)).as_text())
    assert found == ["full", "full"]
