"""The autoencoder of a latent diffusion model: read from where it was trained, and kept in the model's own folder."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

import jdiff.config
from jdiff import from_config, interop
from jdiff.common.arrays import fingerprint
from jdiff.common.errors import UserError, is_out_of_memory
from jdiff.common.keys import root_key
from jdiff.common.paths import expanded
from jdiff.common.processes import of_first_process, wait_for_all_processes
from jdiff.common.progress import progress_bar, say
from jdiff.data import pipeline
from jdiff.data.sources import Source
from jdiff.interop import tensors
from jdiff.interop.pipelines import is_pipeline
from jdiff.networks.autoencoder import Autoencoder
from jdiff.networks.bottlenecks import VQ
from jdiff.spaces import AUTOENCODER, Latents, as_state, decoding, meaning
from jdiff.tasks import Weights
from jdiff.training import sharding
from jdiff.training.memory import smaller_steps
from jdiff.weights.export import export
from jdiff.weights.read import autoencoder_weights, of_run

PARTS = ("vae", "vqvae")  # a pipeline's folders that may hold the autoencoder
ARCHITECTURE = (
    *("bottleneck", "latent_channels", "codebook_size", "levels", "channels", "channel_mults", "blocks_per_level"),
    *("attention_levels", "middle_attention", "norm_groups", "norm_eps", "encoder_channels", "decoder_channels"),
)
OF_IMAGES = ("dtype", "range")  # keys of the group `data` that say what an autoencoder's input is


def with_autoencoder(config: ConfigDict, workdir: Path | None = None) -> ConfigDict:
    """The config with its autoencoder's architecture filled in, where its space is latents. workdir: the run's.

    Raises UserError where space.autoencoder holds none.
    """
    if config.model.space != "latents":
        return config
    config = config.copy_and_resolve_references()
    place, own = config.space.autoencoder, _kept(workdir)
    if workdir and own and (workdir / jdiff.config.FILE).is_file():
        kept = jdiff.config.of_run(workdir).space
        if place and str(expanded(place).resolve()) != kept.autoencoder and _has_other_decoder(place, own):
            say(
                f"space.autoencoder={place} has another decoder than {own}, which this run keeps: --mode=sample and "
                f"--mode=export take the other with --config.space.autoencoder={place}"
            )
        place = kept.autoencoder
        config.space.mean, config.space.std = config.space.mean or kept.mean, config.space.std or kept.std
    if not place:
        raise UserError(
            "model.space='latents' needs an autoencoder: set space.autoencoder to a run of task='autoencoder', or to a "
            "folder of diffusers' AutoencoderKL"
        )
    config.space.autoencoder = str(expanded(place).resolve())  # read again from other folders
    theirs = _theirs(config, workdir)
    for name in ARCHITECTURE:
        config.autoencoder[name] = theirs.autoencoder[name]
    return config


def with_latents_of(config: ConfigDict, theirs: ConfigDict, folder: Path) -> ConfigDict:
    """The config with the latents that the run in `folder`, of the config `theirs`, has learned: its autoencoder, and
    the mean and deviation that normalise them.
    """
    config, own = config.copy_and_resolve_references(), folder / AUTOENCODER
    place = config.space.autoencoder
    if place and _has_other_decoder(place, own):
        say(f"space.autoencoder={place} has the encoder of {own} and another decoder, which is taken")
    else:
        config.space.autoencoder = str(own)
    config.space.mean, config.space.std = theirs.space.mean, theirs.space.std
    return config


def with_decoder(config: ConfigDict, weights: Weights, workdir: Path, mesh: Mesh) -> Weights:
    """The weights of the run in `workdir` with the decoder of space.autoencoder.

    Raises UserError where its encoder is another, too.
    """
    theirs = read_autoencoder(config, mesh)
    if _is_other_decoder(config.space.autoencoder, theirs, workdir / AUTOENCODER, weights.state):
        say(f"decodes by {config.space.autoencoder}, whose encoder is this model's and whose decoder is another")
    return Weights(weights.params, {**weights.state, **theirs})


def _has_other_decoder(place: str, own: Path) -> bool:
    """`_is_other_decoder` of two folders; `place` may be gone."""
    if not (_model_folder(expanded(place)) / jdiff.config.FILE).is_file():
        return False
    mesh = sharding.make_mesh()
    theirs, ours = (as_state(_read(str(where), "space.autoencoder", mesh)[1]) for where in (place, own))
    return _is_other_decoder(place, theirs, own, ours)


def _is_other_decoder(place: str, theirs: PyTree, own: Path, ours: PyTree) -> bool:
    """Whether the autoencoder in `place` has another decoder than the one in `own`, these being parts of a model's
    state. Raises UserError where its latents are others.
    """
    decoders = [decoding(part) for part in (theirs, ours)]
    forms = [jax.tree.map(jnp.shape, decoder) for decoder in decoders]
    if fingerprint(meaning(theirs)) != fingerprint(meaning(ours)) or forms[0] != forms[1]:
        raise UserError(
            f"space.autoencoder={place} holds another autoencoder than {own}, whose latents this model has learned: "
            "leave space.autoencoder out, or train in another --workdir (autoencoder.decoder_only trains a decoder of "
            "the same latents)"
        )
    return fingerprint(decoders[0]) != fingerprint(decoders[1])


def with_initial_autoencoder(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config of an autoencoder with the architecture of the one in train.initial. A run that has begun keeps its
    own.
    """
    config = config.copy_and_resolve_references()
    config.train.initial = str(expanded(config.train.initial).resolve())
    begun = (workdir / jdiff.config.FILE).is_file()
    theirs = jdiff.config.of_run(workdir) if begun else _config_of(config.train.initial, "train.initial")
    for name in ARCHITECTURE:
        config.autoencoder[name] = theirs.autoencoder[name]
    return config


def initial_autoencoder(config: ConfigDict, mesh: Mesh) -> tuple[Weights, list[str]]:
    """(the weights of the autoencoder in train.initial; notes of where they are from)."""
    theirs, weights, step = _read(config.train.initial, "train.initial", mesh)
    if theirs.data.shape[2] != config.data.shape[2]:
        raise UserError(
            f"train.initial={config.train.initial} is of images of {theirs.data.shape[2]} channels, and these have "
            f"{config.data.shape[2]}"
        )
    return weights, [f"starts from the autoencoder of {config.train.initial}, step {step:,}"]


def check_autoencoder(config: ConfigDict, workdir: Path | None = None) -> None:
    """Raises UserError where the autoencoder is of other images than the resolved config's."""
    if config.model.space != "latents":
        return
    place, ours, there = config.space.autoencoder, config.data, _theirs(config, workdir).data
    if ours.shape[2] != there.shape[2]:
        raise UserError(
            f"space.autoencoder={place} is of images of {there.shape[2]} channels, and these have {ours.shape[2]}: "
            f"set data.channels={there.shape[2]}, or train an autoencoder of these images"
        )
    for name in OF_IMAGES:
        if ours[name] != there[name]:
            raise UserError(
                f"space.autoencoder={place} was trained with data.{name}={there[name]!r}, and these images have "
                f"{ours[name]!r}: train an autoencoder of these images"
            )


def _kept(workdir: Path | None) -> Path | None:
    """The folder of the copy that a run keeps of its autoencoder, once it has begun: a start that failed may have left
    a copy of another one.
    """
    if workdir is None or not (workdir / jdiff.config.FILE).is_file():
        return None
    own = workdir / AUTOENCODER
    return own if (own / jdiff.config.FILE).is_file() else None


def _theirs(config: ConfigDict, workdir: Path | None) -> ConfigDict:
    """The autoencoder's config: of the copy that the run keeps, once it has one."""
    own = _kept(workdir)
    return jdiff.config.of_run(own) if own else _config_of(config.space.autoencoder, "space.autoencoder")


def keep_autoencoder(config: ConfigDict, workdir: Path, mesh: Mesh) -> None:
    """Copy the autoencoder's weights into the run's folder, once."""
    if of_first_process(lambda: _kept(workdir) is not None):
        return
    folder = workdir / AUTOENCODER
    place = expanded(config.space.autoencoder)
    theirs, weights, step = _read(config.space.autoencoder, "space.autoencoder", mesh)
    export(weights, theirs, folder, step=step)
    wait_for_all_processes("the autoencoder is kept")
    say(f"the autoencoder of {place} (step {step:,}) is kept in {folder}")


def read_autoencoder(config: ConfigDict, mesh: Mesh, workdir: Path | None = None) -> PyTree:
    """The part of a model's state that holds the autoencoder of space.autoencoder, or the one that a run keeps."""
    if workdir and _kept(workdir):
        return autoencoder_weights(config, workdir, mesh)
    _, weights, _ = _read(config.space.autoencoder, "space.autoencoder", mesh)
    return as_state(weights)


def _config_of(place: str, key: str) -> ConfigDict:
    """The config of an autoencoder: a run's, an exported run's or one of diffusers'. key: that of the config."""
    folder = _model_folder(expanded(place))
    if not (folder / jdiff.config.FILE).is_file():
        raise UserError(
            f"{key}={place} holds no {jdiff.config.FILE}: give the folder of a run of task='autoencoder', "
            "or of diffusers' AutoencoderKL"
        )
    described = tensors.read_config(folder)
    if "_class_name" not in described:
        config = jdiff.config.of_run(folder)
        if config.task != "autoencoder":
            raise UserError(f"{key}={place} is a run of task={config.task!r}; give one of task='autoencoder'")
        return config
    network = interop.describe(described).network
    if not isinstance(network, Autoencoder):
        raise UserError(f"{key}={place} is a {described['_class_name']}; AutoencoderKL and VQModel are autoencoders")
    config = jdiff.config.defaults()
    config.task, config.model.conditions = "autoencoder", ()
    side = described.get("sample_size") or network.layout.stride
    config.data.shape = (*([side, side] if isinstance(side, int) else side), network.out_channels)
    codes = described.get("num_vq_embeddings", 256) if described["_class_name"] == "VQModel" else 0
    for name, value in from_config.settings_of_autoencoder(network, codes).items():
        config.autoencoder[name] = value
    return config


def _read(place: str, key: str, mesh: Mesh) -> tuple[ConfigDict, Weights, int]:
    """(config, averaged weights, step) of the autoencoder in a folder."""
    config, folder = _config_of(place, key), _model_folder(expanded(place))
    if "_class_name" not in tensors.read_config(folder):
        _, weights, step = of_run(config, folder, config.sample.checkpoint, mesh)
        return config, weights, step
    _, params = interop.load(folder)
    codes, between = params.pop("codebook", None), from_config.bottleneck(config)
    task = from_config.task(config)
    state = jax.jit(lambda: task.init(root_key(0), from_config.example(config))[1])()
    held = between.holding(jnp.asarray(codes["codes"])) if isinstance(between, VQ) else {}
    return config, Weights({"autoencoder": params}, {**state, **held}), 0


def _model_folder(folder: Path) -> Path:
    """The autoencoder's folder in a pipeline's of diffusers; any other folder itself."""
    inside = [folder / name for name in PARTS if is_pipeline(folder) and (folder / name).is_dir()]
    return inside[0] if inside else folder


def unscaled(config: ConfigDict) -> ConfigDict:
    """The config with latents as they are, of mean 0 and deviation 1 where these have not been measured."""
    if config.model.space != "latents" or (config.space.mean and config.space.std):
        return config
    config = config.copy_and_resolve_references()
    channels = from_config.bottleneck(config).channels
    config.space.mean, config.space.std = (0.0,) * channels, (1.0,) * channels
    return config


def with_scale_of_latents(config: ConfigDict, source: Source, own: PyTree, mesh: Mesh) -> ConfigDict:
    """The config with each channel's mean and standard deviation over the training images, unless it has them. own: the
    autoencoder's part of a model's state.

    Where latents are sampled, the variance is that of their means plus the mean of their variances.
    """
    if config.space.mean and config.space.std:
        return config
    space = from_config.space(unscaled(config))
    assert isinstance(space, Latents)
    spread = jax.jit(lambda moments: jnp.stack(space.mean_and_variance(moments.astype(jnp.float32))))
    channels = space.shape[2]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for moments in moments_of(config, space, source, own, mesh):
        mean, variance = np.asarray(spread(moments), np.float64)
        count += mean[..., 0].size
        total += mean.sum(axis=(0, 1, 2))
        squares += (mean**2 + variance).sum(axis=(0, 1, 2))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    constant = np.flatnonzero(std < 1e-6 * max(1.0, float(std.max())))
    if len(constant):
        raise UserError(
            f"space.autoencoder={config.space.autoencoder}: channel {', '.join(map(str, constant))} of its latents is "
            "the same in all images: train it with a smaller autoencoder.latent_channels or autoencoder.beta"
        )
    config = config.copy_and_resolve_references()
    config.space.mean, config.space.std = tuple(map(float, mean)), tuple(map(float, std))
    told = ", ".join(f"{one:.3g} ± {other:.3g}" for one, other in zip(mean, std, strict=True))
    say(f"latents {'x'.join(map(str, space.shape))} of {len(source):,} images, mean ± deviation by channel: {told}")
    return config


def moments_of(config: ConfigDict, space: Latents, source: Source, own: PyTree, mesh: Mesh) -> Iterator[np.ndarray]:
    """The moments [b, h, w, f] of a source's images, or of latents that were prepared, a batch at a time, as the usual
    view has them.
    """
    rows, encode = config.train.batch_size, encoder(config, space, own, mesh)
    view = from_config.view(config, train=False)
    numbers = from_config.shape_numbers(config, source)
    of_shapes = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]  # a batch is of one shape
    batches = [chosen[first : first + rows] for chosen in of_shapes for first in range(0, len(chosen), rows)]
    for chosen in progress_bar("measuring latents", show=config.log.progress)(batches, len(batches)):
        images = pipeline.batch_of(source, view, chosen)["x0"]
        yield images if images.dtype == np.float16 else encode(images)


def encoder(config: ConfigDict, space: Latents, own: PyTree, mesh: Mesh) -> Callable[[np.ndarray], np.ndarray]:
    """Images [b, H, W, C], at most train.batch_size of them, -> their moments, computed as in training. own: the
    autoencoder's part of a model's state. Raises UserError where memory runs out.
    """
    rows, parts, weights = config.train.batch_size, config.train.accumulate, Weights({}, own)
    program = jax.jit(partial(space.features, parts=parts))

    def encode(images: np.ndarray) -> np.ndarray:
        filled = np.concatenate([images, np.repeat(images[-1:], rows - len(images), axis=0)])
        try:
            moments = program(weights, jax.device_put(filled, sharding.of_batch(mesh, rows)))
            return sharding.whole(moments)[: len(images)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller = smaller_steps(rows, parts, mesh.size, remat=True)  # the encoder's backward pass is not taken
            raise UserError(f"out of memory where train.batch_size={rows} images are encoded: {smaller}") from error

    return encode
