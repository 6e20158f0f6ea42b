"""Import and export of diffusers' models: a local folder with config.json and safetensors <-> one of jdiff's networks
and its parameters.

    network, params = interop.load("path/to/unet")
    interop.save(params, config, "path/to/copy")

Unknown tensors and settings are refused by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree

from jdiff.common.errors import UserError
from jdiff.common.keys import root_key
from jdiff.common.paths import expanded
from jdiff.interop import autoencoders, dit, table, tensors, unets
from jdiff.interop.settings import Settings
from jdiff.interop.table import Entry

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A diffusers class: the defaults of its settings, and functions from settings to jdiff's network, its table of
    weights, and inputs for its initialisation.
    """

    defaults: Config
    network: Callable[[Settings], nn.Module]
    entries: Callable[[Any, Settings], Iterable[Entry]]
    inputs: Callable[[Any, Settings], tuple]


KINDS = {
    "UNet2DModel": Kind(unets.UNET_2D, unets.unet_2d, unets.entries, unets.inputs),
    "UNet2DConditionModel": Kind(unets.UNET_2D_CONDITION, unets.unet_2d_condition, unets.entries, unets.inputs),
    "DiTTransformer2DModel": Kind(dit.DEFAULTS, dit.dit, dit.entries, dit.inputs),
    "Transformer2DModel": Kind(dit.TRANSFORMER, dit.transformer, dit.entries, dit.inputs),
    "AutoencoderKL": Kind(
        autoencoders.AUTOENCODER_KL, autoencoders.autoencoder_kl, autoencoders.kl_entries, autoencoders.inputs
    ),
    "VQModel": Kind(autoencoders.VQ_MODEL, autoencoders.vq_model, autoencoders.vq_entries, autoencoders.inputs),
}


@dataclass(frozen=True)
class Description:
    """The network that a config.json describes, its table of weights, and the shapes of its parameters by path, with
    those of the arrays that lie beside them.
    """

    network: nn.Module
    entries: list[Entry]
    shapes: dict[str, tuple[int, ...]]


def describe(config: Config) -> Description:
    """The model that the contents of a config.json describe. Raises UserError for an unknown class or setting."""
    name = config.get("_class_name")
    if name not in KINDS:
        raise UserError(f"config.json describes the class {name!r}, which is not known here; {', '.join(KINDS)} are")
    kind = KINDS[name]
    settings = Settings(config, kind.defaults)
    network = kind.network(settings)
    entries, inputs = list(kind.entries(network, settings)), kind.inputs(network, settings)
    settings.finish()
    try:
        made = jax.eval_shape(network.init, root_key(0), *inputs)
    except ValueError as error:
        raise UserError(f"{name}: config.json describes a network that cannot be: {error}") from error
    beside = {entry.ours: entry.shape for entry in entries if entry.shape is not None}
    return Description(network, entries, table.shapes_of(made["params"]) | beside)


def load(folder: str | Path) -> tuple[nn.Module, PyTree]:
    """(network, parameters) of the diffusers model in `folder`; a VQModel's codes lie beside its network's parameters,
    under ["codebook"]["codes"]. Raises UserError for unknown settings, and for unknown, missing or misshapen tensors.
    """
    folder = expanded(folder)
    model = describe(tensors.read_config(folder))
    return model.network, table.to_params(tensors.read(folder), model.entries, model.shapes)


def save(params: PyTree, config: Config, folder: str | Path) -> None:
    """Write parameters as the diffusers model that `config` (the contents of a config.json) describes. Raises UserError
    where they do not fit it.
    """
    _save(params, config, expanded(folder), f"the config's {config.get('_class_name')}")


def save_like(params: PyTree, like: Path, folder: Path) -> None:
    """As `save`, with the config.json of the folder `like`."""
    _save(params, tensors.read_config(like), folder, f"{like}'s")


def _save(params: PyTree, config: Config, folder: Path, whose: str) -> None:
    model = describe(config)
    ours, theirs = table.shapes_of(params), model.shapes
    ours_alone = {entry.ours for entry in model.entries if entry.theirs is None}
    for name in sorted((ours.keys() | theirs.keys()) - ours_alone):
        if ours.get(name) != theirs.get(name):
            here, there = (list(shapes[name]) if name in shapes else "nothing" for shapes in (ours, theirs))
            raise UserError(f"this network is not {whose}: {name} is {here} here and {there} there")
    tensors.write(folder, table.to_tensors(params, model.entries), config)
