"""What a stranger adds, each through its seam: one file, which a class or function here stands for, and one line, which
a monkeypatch here stands for. Nothing else of jdiff knows of it.
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import jdiff
import jdiff.modes
from jdiff import main, previews
from jdiff.common.ranges import Range
from jdiff.conditions import Condition
from jdiff.diffusion.samplers import Sampler
from jdiff.from_config.conditions import CONDITIONS
from jdiff.from_config.guidance import GUIDANCES
from jdiff.from_config.sampling import SAMPLERS
from jdiff.from_config.spaces import SPACES
from jdiff.networks.conditioning import ScalarEmbedding
from tests.conftest import REPOSITORY, TINY, config, run_here


@dataclass(frozen=True)
class OneJump(Sampler):
    """x' = D(x, s), whatever s' is."""

    order = 0

    def init(self, x, keys):
        return ()

    def step(self, denoise, carry, x, sigma, sigma_next, keys):
        return denoise(x, sigma).x0, carry

    def nfe(self, steps: int) -> int:
        return steps


@struct.dataclass
class Inverted:
    """-D in place of D."""

    scale: Any
    passes = 1

    def __call__(self, denoise):
        def inverted(x, sigma, cond, to=None):
            denoised = denoise(x, sigma, cond, to)
            return replace(denoised, x0=-denoised.x0, x0_dir=-denoised.x0_dir)

        return inverted


@dataclass(frozen=True, kw_only=True)
class Brightness(Condition):
    """The mean of a picture, 0 black and 1 white: float32 [n, 1]."""

    name = "brightness"
    argument = "brightness"
    words = "brightness"
    drop_rate: float = 0.1

    def of_record(self, record, pictures):
        return np.float32([record["image"].mean() / 255])

    def of_caller(self, values):
        return np.float32(values).reshape(-1, 1)

    def example(self, rows, sides):
        return np.zeros((rows, 1), np.float32)

    def embedder(self, vector_features, dtype):
        return ScalarEmbedding(vector_features, dtype=dtype)


@dataclass(frozen=True)
class Halved:
    """x is the picture at half its sides: the mean of 2x2 pixels, and back by repeating them."""

    shape: tuple[int, int, int]
    values: Range

    def encode(self, weights, images, key):
        pixels = self.values.to_model(images)
        b, (h, w, c) = len(images), self.shape
        return pixels.reshape(b, h, 2, w, 2, c).mean((2, 4))

    def decode(self, weights, x):
        return self.values.from_model(x.repeat(2, -3).repeat(2, -2))

    def mask(self, mask):
        return mask[:, ::2, ::2]


def halved(config):
    height, width, channels = config.data.shape
    return Halved((height // 2, width // 2, channels), Range(config.data.dtype, *config.data.range))


def weight_norm(config, task, mesh, held_out):
    """The norm of the averaged weights, at every second step."""

    def evaluate(model, state, step):
        squares = [float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(model.params)]
        return previews.Report(scalars={"weight_norm": sum(squares) ** 0.5})

    return [(2, evaluate)]


COUNT_MODE = """
import jdiff


def count(config, workdir, out):
    print(f"trained for {jdiff.load(workdir).step} steps")
    return 0
"""


@pytest.fixture
def added(monkeypatch, tmp_path):
    (tmp_path / "modes").mkdir()
    (tmp_path / "modes" / "count.py").write_text(COUNT_MODE)
    monkeypatch.setattr(jdiff.modes, "__path__", [*jdiff.modes.__path__, str(tmp_path / "modes")])
    monkeypatch.setitem(main.MODES, "count", main.Mode("counts", of_run=True))
    monkeypatch.setitem(SAMPLERS, "one_jump", lambda sample: OneJump())
    monkeypatch.setitem(GUIDANCES, "inverted", lambda config, scale, helpers: Inverted(scale))
    monkeypatch.setitem(CONDITIONS, "brightness", lambda config, rate: Brightness(drop_rate=rate))
    monkeypatch.setitem(SPACES, "halved", halved)
    monkeypatch.setattr(previews, "SCORES", [*previews.SCORES, weight_norm])


def test_a_sampler_guidance_condition_space_evaluator_and_mode_of_a_stranger(added, tmp_path):
    own = ("--config.model.space=halved", "--config.model.conditions=('label','brightness')")
    result = run_here(config("digits"), *TINY, *own, "--config.train.steps=4", "--workdir=run", cwd=tmp_path)
    assert result.status == 0, result.err

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "weight_norm" in row] == [2, 4]
    assert all(row["weight_norm"] > 0 for row in rows if "weight_norm" in row)

    model = jdiff.load(tmp_path / "run")
    assert model.noise([0]).shape == (1, 4, 4, 1)
    given = {"labels": [1, 2], "brightness": [0.2, 0.8]}
    images = model.sample(**given, sampler="one_jump", guidance_scale=1.0)
    assert images.shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(images[:, ::2, ::2], images[:, 1::2, 1::2])
    opposite = model.sample(2, **given, sampler="one_jump", method="inverted", guidance_scale=2.0)
    assert np.abs(opposite.astype(int) + images - 255).max() <= 1
    assert set(model.request(2, labels=[1, 2]).cond["drop"]) == {"brightness"}
    assert model.inpaint(images, np.ones((8, 8), bool), sampler="ddim", **given).shape == (2, 8, 8, 1)
    assert model.nfe(sampler="one_jump", method="inverted", guidance_scale=2.0) == (4, 4)

    counted = run_here("--mode=count", "--workdir=run", cwd=tmp_path)
    assert (counted.status, counted.out) == (0, "trained for 4 steps\n")


def test_the_sampler_of_the_contributors_guide_walks(monkeypatch, tiny_run):
    """CONTRIBUTING.md's, added by its line: Euler's step, as DDIM's without noise is."""
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    made: dict[str, Any] = {"__name__": "plain"}
    exec(code, made)
    monkeypatch.setitem(SAMPLERS, "plain_euler", lambda sample: made["PlainEuler"]())
    model = jdiff.load(tiny_run.workdir)
    ours, ddim = (model.sample(4, sampler=name, steps=4).astype(int) for name in ("plain_euler", "ddim"))
    assert np.abs(ours - ddim).max() <= 1
