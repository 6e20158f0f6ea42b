"""--mode=prepare: any data, packed once into a few large files that are read fast and shuffled truly at random."""

from pathlib import Path

from ml_collections import ConfigDict

from jdiff import from_config
from jdiff.common.errors import UserError
from jdiff.common.progress import progress_bar
from jdiff.data.sources.packed import pack


def prepare(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Pack the data that `config` names into the folder `out`; the exit status."""
    if out is None:
        raise UserError("--mode=prepare needs --out=DIR, an empty folder that the packed data go to")
    config = config.copy_and_resolve_references()
    config.machine.cache = 0.0  # each is read once
    train, held_out = from_config.sources(config)
    splits = {"train": train} | ({} if held_out is None else {"test": held_out})
    pack(splits, out, progress=progress_bar("packing", show=config.log.progress))
    counts = ", ".join(f"{len(source):,} {split}" for split, source in splits.items())
    print(f"packed {counts} images into {out}; read them with --config.data.name=array_record --config.data.dir={out}")
    return 0
