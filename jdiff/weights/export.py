"""A run as one folder of safetensors, config, tokenizer and examples: `jdiff.load` reads it."""

import shutil
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jdiff import interop
from jdiff.common.errors import UserError
from jdiff.common.paths import expanded
from jdiff.common.processes import is_first_process
from jdiff.conditions.examples import EXAMPLES
from jdiff.conditions.text import TOKENIZER
from jdiff.config import saved
from jdiff.interop import tensors
from jdiff.spaces import AUTOENCODER
from jdiff.tasks import Weights
from jdiff.training import history
from jdiff.training.sharding import whole

EXPORTED = "weights.safetensors"  # in place of checkpoints, in a run's folder that was exported
STATE = "state"  # names of what a task keeps beside its parameters begin with it


def is_exported(folder: Path) -> bool:
    """Whether the folder holds an exported run."""
    return (folder / EXPORTED).is_file()


def export(
    weights: Weights,
    config: ConfigDict,
    folder: Path,
    *,
    step: int,
    workdir: Path | None = None,
    like: str | Path | None = None,
) -> None:
    """Write a run's folder with safetensors in place of checkpoints; with `like`, a model's folder of diffusers, the
    network in the form that this one has. workdir: the run's.

    Raises UserError where the folder cannot be written, or the network is another than that of `like`.
    """
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds a run, which weights written there would hide; give another folder")
    own = {name: part for name, part in weights.state.items() if name != AUTOENCODER}  # it has a folder of its own
    arrays = {name: whole(leaf) for name, leaf in as_tensors(Weights(weights.params, own)).items()}
    if not is_first_process():
        return
    if like is not None:
        interop.save_like(of_one_network(of_tensors(arrays)), expanded(like), folder)
        return
    merged = config.copy_and_resolve_references()
    merged.sample.ema = None  # the weights are of this average alone
    merged.lora.rank, merged.train.initial = 0, ""  # low-rank parts are merged: there is nothing to stand beside
    tensors.write(folder, arrays, saved(merged), file=EXPORTED, metadata={"step": str(step)})
    for pattern in (TOKENIZER, EXAMPLES.replace(".", "*."), history.FILE):
        for file in workdir.glob(pattern) if workdir else ():
            shutil.copy(file, folder / file.name)


def of_one_network(weights: Weights) -> PyTree:
    """What another library keeps as one model: the denoiser's parameters, or an autoencoder's with its codes."""
    if "network" in weights.params:
        return weights.params["network"]
    book = weights.state.get("codebook")
    return {**weights.params["autoencoder"], **({"codebook": {"codes": book["codes"]}} if book else {})}


def as_tensors(weights: Weights) -> dict[str, Any]:
    """Weights by dotted names."""
    flat = flatten_dict(weights.params) | flatten_dict({STATE: weights.state})
    return {".".join(path): leaf for path, leaf in flat.items()}


def of_tensors(arrays: dict[str, Any]) -> Weights:
    """Weights from their dotted names."""
    params = unflatten_dict({tuple(name.split(".")): array for name, array in arrays.items()})
    return Weights(params, params.pop(STATE, {}))
