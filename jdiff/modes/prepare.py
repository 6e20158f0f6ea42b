"""--mode=prepare: any data, packed once into a few large files that are read fast and shuffled truly at random."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.data.sources import Source
from jdiff.data.sources.packed import pack, packed_bytes
from jdiff.resolve import resolve


def prepare(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Pack the data that `config` names into the folder `out`; the exit status."""
    if out is None:
        raise UserError("--mode=prepare needs --out=DIR, an empty folder that the packed data go to")
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
