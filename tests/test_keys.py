"""Keys: one generator, whatever JAX's settings are."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdiff.common import keys
from jdiff.common.keys import named, root_key
from jdiff.networks.embeddings import FOURIER_FREQUENCIES, fourier
from tests import randomness
from tests.conftest import CACHE, REPOSITORY


@pytest.fixture(scope="module")
def usual(tiny_run):
    return randomness.arrays(str(tiny_run.workdir))


@pytest.mark.slow
@pytest.mark.parametrize("partitionable", ["0", "1"])
def test_settings_of_jax_change_no_random_number(usual, tiny_run, partitionable, tmp_path):
    """The bits of noise, paths, initial weights, training, Fourier features and samples under other settings of JAX."""
    settings = {"JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": partitionable}
    environment = {**os.environ, **settings, "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    file = tmp_path / "arrays.npz"
    command = [sys.executable, "-m", "tests.randomness", tiny_run.workdir, file]
    subprocess.run(command, check=True, env=environment, cwd=REPOSITORY)
    with np.load(file) as others:
        assert set(others) == set(usual)
        for name in usual:
            np.testing.assert_array_equal(others[name], usual[name], err_msg=name)


@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
@pytest.mark.parametrize("width", [8, 16, 32])
def test_bits_are_those_of_threefry_by_default(shape, width):
    dtype = f"uint{width}"
    ours = jax.random.bits(jax.random.fold_in(root_key(7), 3), shape, dtype)
    with jax.threefry_partitionable(True):
        theirs = jax.random.bits(jax.random.fold_in(jax.random.key(7, impl="threefry2x32"), 3), shape, dtype)
    np.testing.assert_array_equal(ours, theirs)


def test_a_key_survives_as_data():
    key = named(root_key(3), "train")
    assert keys.wrapped(jax.random.key_data(key)) == key
    assert keys.wrapped(jax.random.key_data(key)).dtype == key.dtype


def test_names_give_unlike_keys():
    key = root_key(0)
    drawn = {name: float(jax.random.normal(named(key, name))) for name in ("sigma", "eps", "drop", "dropout", "prior")}
    assert len(set(drawn.values())) == 5


def test_keys_are_made_in_one_place():
    made = re.compile(r"random\.(key|PRNGKey|wrap_key_data)\(")
    files = {file for file in (REPOSITORY / "jdiff").rglob("*.py") if made.search(file.read_text())}
    assert files == {REPOSITORY / "jdiff" / "common" / "keys.py"}


def test_fourier_frequencies_are_one_draw_of_16_standard_deviations():
    """2006.10739; the file holds the draw of key 0, which checkpoints were trained with."""
    drawn = 2 * np.pi * 16 * jax.random.normal(root_key(0), FOURIER_FREQUENCIES.shape)
    np.testing.assert_allclose(FOURIER_FREQUENCIES, drawn, rtol=1e-6)
    assert isinstance(FOURIER_FREQUENCIES, np.ndarray)
    first = [value.hex() for value in FOURIER_FREQUENCIES[:2].tolist()]
    assert first == ["0x1.4640680000000p+7", "0x1.9734220000000p+7"]
    values = np.float32([-1.5, 0.25])
    angles = values[:, None] * FOURIER_FREQUENCIES[:4]
    np.testing.assert_allclose(
        fourier(jnp.asarray(values), 8), np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5
    )
    with pytest.raises(ValueError, match="1026 Fourier features; at most 1024"):
        fourier(jnp.ones(1), 1026)
