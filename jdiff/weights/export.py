"""A run's weights and config as one folder of safetensors."""

from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jdiff.interop import tensors

EXPORTED = "weights.safetensors"  # in place of checkpoints, in a run's folder that was exported


def export(params: PyTree, config: ConfigDict, folder: Path, *, step: int) -> None:
    """Write weights and config as a run's folder with safetensors in place of checkpoints: `jdiff.load` reads it."""
    arrays = {".".join(path): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    merged = config.copy_and_resolve_references()
    merged.lora.rank, merged.train.initial = 0, ""  # low-rank parts are merged: there is nothing to stand beside
    tensors.write(folder, arrays, merged.to_dict(), file=EXPORTED, metadata={"step": str(step)})
