"""What the tests against diffusers' networks share: the same numbers in and out of both, and folders of models.

A difference is the largest |ours - theirs| over the largest |theirs|.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jdiff import interop
from jdiff.common.errors import UserError

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
torch.set_num_threads(1)  # of networks as small as these, threads only wait for one another

RELATIVE = 1e-4
WEIGHTS = "diffusion_pytorch_model.safetensors"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def theirs(x: np.ndarray):
    """An image for them: [B, C, H, W]."""
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def ours(x) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def close(mine: Any, others: np.ndarray, within: float = RELATIVE) -> None:
    mine = np.asarray(mine)
    assert mine.shape == others.shape
    assert others.std() > 0
    assert np.abs(mine - others).max() < within * np.abs(others).max()


def compare(mine: Callable, others: Callable, params: Any, x: np.ndarray, within: float = RELATIVE) -> np.ndarray:
    """Theirs of x, where ours agree in value and in the gradient of sum(sin(value)): mine(params, x), others(x)."""

    def summed(x, params):
        out = mine(params, x)
        return jnp.sum(jnp.sin(out)), out

    (_, out), gradient = jax.jit(jax.value_and_grad(summed, has_aux=True))(x, params)
    their_x = theirs(x).requires_grad_()
    their_out = others(their_x)
    torch.sum(torch.sin(their_out)).backward()
    close(out, ours(their_out), within)
    close(gradient, ours(their_x.grad), within)
    return ours(their_out)


def assert_saved_as_it_was(params: Any, folder: Path, out: Path) -> None:
    """Parameters loaded from the folder, saved again, have its names, shapes, bytes and settings."""
    interop.save(params, config(folder), out)
    assert config(out) == config(folder)
    before, after = load_file(folder / WEIGHTS), load_file(out / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape), name
        assert tensor.tobytes() == after[name].tobytes(), name


def reloaded(model, folder: Path):
    """A model of its class, as they read it from the folder."""
    again = type(model).from_pretrained(folder).eval()
    for parameter in again.parameters():
        parameter.data = parameter.data.clone()  # at an aligned address: their sums are in another order elsewhere
    return again


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        interop.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def with_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def with_settings(folder: Path, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config(folder) | settings))
