"""--mode=prepare: any data, packed once into a few large files that are read fast and shuffled truly at random.

With model.space="latents" the latents of the data, which training then reads in place of encoding images at every step.
"""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.config import denoises
from jdiff.data.sources import Source
from jdiff.data.sources.moments import Moments
from jdiff.data.sources.packed import pack, packed_bytes
from jdiff.resolve import resolve
from jdiff.spaces import Latents
from jdiff.training import sharding
from jdiff.weights.autoencoder import check_autoencoder, encoder, read_autoencoder, unscaled, with_autoencoder
from jdiff.weights.prepared_latents import refuse_unprepared, write_origin
from jdiff.weights.start import with_pretrained_network


def prepare(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Pack the data that `config` names into the folder `out`; the exit status."""
    if out is None:
        raise UserError("--mode=prepare needs --out=DIR, an empty folder that the packed data go to")
    if config.train.initial and denoises(config):
        config = with_pretrained_network(config, out)  # a pipeline, or a run of latents, brings its own
    if config.model.space == "latents":
        return prepare_latents(config, out)
    train, held_out = from_config.sources(config)
    splits = {"train": train} | ({} if held_out is None else {"test": held_out})
    size, whole = "as they are", ""
    if config.data.image_size:
        config = resolve(config, train)
        splits = {
            name: from_config.prepared(config, one, train=name == "train", keep=False) for name, one in splits.items()
        }
        shapes = config.data.shapes or (config.data.shape[:2],)
        size = " and ".join(f"{height}x{width}" for height, width in shapes)
        whole = "; --config.data.image_size=0 packs them whole"
    counts = ", ".join(f"{len(source):,} {split}" for split, source in splits.items())
    print(f"packing {counts} images, {size}{_told(splits)}, into {out}{whole}")
    pack(splits, out, progress=progress_bar("packing", show=config.log.progress))
    print(f"packed {counts} images into {out}; read them with --config.data.name=array_record --config.data.dir={out}")
    return 0


def _told(splits: Mapping[str, Source]) -> str:
    """How much it will be, where that is known."""
    sizes = [packed_bytes(source) for source in splits.values()]
    known = [size for size in sizes if size is not None]
    return f", {sum(known) / 1e6:,.1f} MB" if len(known) == len(sizes) else ""


def prepare_latents(config: ConfigDict, out: Path) -> int:
    """Pack the moments that the config's autoencoder gives of its data into `out`; the exit status."""
    if config.machine.distributed:
        raise UserError("machine.distributed=True: --mode=prepare writes latents by one process; start it alone")
    source, held_out = from_config.sources(config)
    config = resolve(with_autoencoder(config), source)
    config.space.prepared = ""
    check_autoencoder(config)
    refuse_unprepared(config)
    mesh = sharding.make_mesh()
    space, own = from_config.space(unscaled(config)), read_autoencoder(config, mesh)
    assert isinstance(space, Latents)
    view, encode = from_config.view(config, train=False), encoder(config, space, own, mesh)
    shape = (*space.shape[:2], space.first_stage.bottleneck.features)
    splits = {"train": source} | ({} if held_out is None else {"test": held_out})
    flips = {"train": config.data.flip, "test": False}
    made = {
        name: Moments(from_config.prepared(config, one, train=False), view, encode, shape, mirrored=flips[name])
        for name, one in splits.items()
    }
    counts = ", ".join(f"{len(one):,} {split}" for split, one in splits.items())
    print(f"encoding {counts} images into latents {'x'.join(map(str, space.shape))}{_told(made)}, into {out}")
    pack(made, out, together=config.train.batch_size, progress=progress_bar("encoding", show=config.log.progress))
    write_origin(out, config, own, source)
    print(f"packed the latents of {counts} images into {out}; train on them with --config.space.prepared={out}")
    return 0
