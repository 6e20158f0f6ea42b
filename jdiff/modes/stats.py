"""--mode=stats: the reference that images are scored against, as one file."""

from pathlib import Path

from ml_collections import ConfigDict

from jdiff import scoring
from jdiff.common.errors import UserError
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say
from jdiff.evaluation import statistics
from jdiff.training import sharding


def stats(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write the statistics of the config's data by the protocol of its group `eval` to `out`, an .npz or a folder; the
    exit status.
    """
    if config.eval.reference:
        raise UserError(f"--mode=stats measures the data: leave out eval.reference={config.eval.reference!r}")
    judge = scoring.judge(config, sharding.make_mesh(), progress=config.log.progress)
    out = out or workdir / "stats"
    file = out if out.suffix == ".npz" else out / f"{judge.protocol.name}_{judge.protocol.features}.npz"
    if is_first_process():
        statistics.write(file, judge.reference)
    for note in judge.data.notes if judge.data else ():
        say(note)
    say(
        f"protocol: {judge.protocol.name}: {judge.protocol.about}\n"
        f"statistics of {judge.reference.count:,} images of {judge.place}: {file}\n"
        f"they are taken by --config.eval.reference={file}; pytorch-fid and EDM read mu and sigma there, too"
    )
    return 0
