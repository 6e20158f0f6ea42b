"""Reading and writing a model's folder as diffusers keeps it: a config.json and safetensors files."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jdiff.common.errors import UserError
from jdiff.common.files import replace_file

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANTS = "diffusion_pytorch_model.*.safetensors"
# Names of attention's layers in the first releases of diffusers -> names now.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

Tensors = dict[str, np.ndarray]


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of the folder's config.json. Raises UserError where it cannot be read."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{folder} holds no model: cannot read {file.name} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} must hold a JSON object")
    return config


def read(folder: Path) -> Tensors:
    """All tensors of the folder's model, sharded or not, as float32, by their current names.

    Raises UserError where there is none, or a file is damaged.
    """
    files = _files(folder)
    return {_current(name): tensor for file in files for name, tensor in read_file(file)[0].items()}


def _files(folder: Path) -> list[Path]:
    """The model's files, chosen as diffusers does: the shards that an index names, whatever other files there are; else
    the whole file; else a variant ("fp16") if it is the only one.
    """
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        try:
            shards = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} cannot be read: {error}") from error
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise UserError(f"{folder} lacks {missing[0]}, which {index.name} names")
        return shards
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    variants = sorted(folder.glob(VARIANTS))
    if len(variants) != 1:
        found = f" but {', '.join(file.name for file in variants)}: rename one" if variants else ""
        raise UserError(f"{folder} holds no {WEIGHTS}{found or '; save the model with save_pretrained(FOLDER)'}")
    return variants


def _current(name: str) -> str:
    attention = re.fullmatch(rf"(.*attentions\.\d+)\.({'|'.join(OLD_NAMES)})\.(weight|bias)", name)
    return f"{attention[1]}.{OLD_NAMES[attention[2]]}.{attention[3]}" if attention else name


def read_file(file: Path) -> tuple[Tensors, dict[str, str]]:
    """(tensors as float32, metadata) of a safetensors file. Raises UserError where it cannot be read."""
    try:
        # framework="flax": NumPy has no bfloat16.
        with safe_open(file, framework="flax") as opened:
            names = opened.keys()
            tensors = {name: np.asarray(opened.get_tensor(name), np.float32) for name in names}
            return tensors, opened.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a whole safetensors file: {' '.join(str(error).split())}") from error


def write(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    *,
    file: str = WEIGHTS,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors as a safetensors file, and config.json beside it. Raises UserError where the folder cannot be
    written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
        save_file(whole, folder / file, metadata={"format": "pt", **(metadata or {})})
        (folder / f"{file}.index.json").unlink(missing_ok=True)  # of an older model
        replace_file(folder / CONFIG, json.dumps(dict(config), indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write to {folder}: {error}") from error
