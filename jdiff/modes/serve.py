"""--mode=serve: a page to draw from a run, and to watch one that trains."""

import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.progress import say
from jdiff.config import config_value, differences, of_run
from jdiff.demo.asked import Limits
from jdiff.model import restore
from jdiff.training.checkpoints import steps
from jdiff.weights.export import is_exported


def serve(config: ConfigDict, workdir: Path, out: Path | None) -> int:
    """Serve the page until it is stopped; the exit status. A run without a checkpoint yet is watched alone."""
    if out:
        raise UserError("--out is for modes that write: --mode=serve writes nothing")
    if config.machine.distributed:
        raise UserError("machine.distributed=True: --mode=serve works by one process; start it alone")
    try:
        from jdiff.demo.page import launch, page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("--mode=serve needs Gradio: pip install 'jdiff-diffusion[demo]'") from error
    trained = steps(workdir / "checkpoints") or is_exported(workdir)
    model = restore(config, workdir) if trained else None
    limits = Limits(images=config.serve.most_images, steps=config.serve.most_steps)
    blocks = page(model, workdir, limits, _overrides(config, workdir))
    try:
        say(f"the page of {workdir} is at {launch(blocks, config.serve.host, config.serve.port)}; Ctrl-C ends it")
        while True:
            time.sleep(1)
    finally:
        blocks.close(verbose=False)


def _overrides(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The values of the keys that differ from the run's own config, or that go before a preset's settings."""
    names = dict.fromkeys([*differences(of_run(workdir), config), *config.sample.given])
    return {name: config_value(config, name) for name in names}
