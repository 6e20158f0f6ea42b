"""--mode=export: a run as one folder of safetensors."""

from pathlib import Path

from ml_collections import ConfigDict

from jdiff.common.progress import say
from jdiff.model import restore


def export(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Write the run's weights and config to `out` (default: workdir/export); the exit status."""
    out = out or workdir / "export"
    restore(config, workdir).export(out)
    say(f"weights and config: {out}; jdiff.load reads it, and so does --config.train.initial")
    return 0
