"""Logging of scalars and pictures to metrics.jsonl, TensorBoard, Weights & Biases and the terminal."""

import json
import math
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, UInt8
from tqdm import tqdm

from jdiff.common.errors import UserError, install
from jdiff.common.files import replace_file
from jdiff.common.processes import is_first_process
from jdiff.common.progress import say


@runtime_checkable
class Writer(Protocol):
    """One destination of a run's logs."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by name."""

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Log a picture."""

    def close(self) -> None:
        """Finish writing."""


class Jsonl:
    """metrics.jsonl: a JSON object a line, "step" and then scalars; null where a value is not finite.

    start: the step that training resumes from. Lines of later steps are deleted, and damaged ones, which is
    said. Raises UserError where the file cannot be written.
    """

    def __init__(self, path: Path, *, start: int):
        try:
            if path.exists():
                lines = [(_step(line), line) for line in path.read_bytes().splitlines()]
                replace_file(path, b"".join(line + b"\n" for step, line in lines if step is not None and step <= start))
                if damaged := sum(step is None for step, _ in lines):
                    say(f"{path}: left out {damaged} damaged line{'s' * (damaged > 1)}")
            self._file = path.open("a")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; make room or mend the permissions") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line. Raises UserError where the file cannot be written."""
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"cannot write {self._file.name}: {error}; make room, then run the same command again"
            ) from error

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Not written here."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step(line: bytes) -> int | None:
    """The step of a line; None for a damaged one, such as the last one of a killed run."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


class TensorBoard:
    """Event files for TensorBoard, by tensorboardX. start: the step that training resumes from."""

    def __init__(self, directory: Path, *, start: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=start + 1 if start else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the finite values."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Write an image."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class Wandb:
    """Weights & Biases (extra `wandb`). A resumed run continues the same log."""

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        import wandb

        self._wandb = wandb
        saved = workdir / "wandb_id.txt"
        identity = saved.read_text().strip() if saved.exists() else ""
        if not identity:
            identity = wandb.util.generate_id()
            replace_file(saved, identity)
        wandb.init(project=project, name=workdir.name, id=identity, resume="allow", config=dict(config), dir=workdir)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send the values."""
        self._wandb.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Send an image."""
        self._wandb.log({name: self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """End the run there."""
        self._wandb.finish()


def check_logs(log: Any) -> None:
    """Raises UserError where a writer that `log` asks for is not installed: before hours of anything else."""
    if log.wandb and find_spec("wandb") is None:
        raise UserError(f"log.wandb=True needs Weights & Biases: {install('wandb')}")


class Progress:
    """A progress bar on the terminal, with step, loss, images/s and time left; elsewhere, a line at each log point."""

    def __init__(self, *, start: int, total: int):
        self._total = total
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None

    def advance(self) -> None:
        """One more step is done."""
        if self._bar is not None:
            self._bar.update()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Show loss, accuracy and speed."""
        shown = {name: f"{value:.4g}" for name, value in values.items() if name in ("loss", "images_per_s", "accuracy")}
        if self._bar is not None:
            self._bar.set_postfix(shown)
        elif shown:
            facts = "  ".join(f"{name} {value}" for name, value in shown.items())
            left = (self._total - step) * values.get("seconds_per_step", math.nan)
            left_text = f"  {tqdm.format_interval(left)} left" if math.isfinite(left) else ""
            print(f"step {step}/{self._total}  {facts}{left_text}", file=sys.stderr, flush=True)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Not shown here."""

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class Writers:
    """All writers that `config.log` asks for, as one context manager. Only the first process writes."""

    def __init__(self, log: Any, workdir: Path, config: Any, *, start: int, total: int):
        self._writers: list[Writer] = []
        self._progress: Progress | None = None
        if not is_first_process():
            return
        self._writers.append(Jsonl(workdir / "metrics.jsonl", start=start))
        if log.tensorboard:
            self._writers.append(TensorBoard(workdir / "tensorboard", start=start))
        if log.wandb:
            self._writers.append(Wandb(log.wandb_project, workdir, config.to_dict()))
        if log.progress:
            self._progress = Progress(start=start, total=total)
            self._writers.append(self._progress)

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers:
            writer.close()

    def advance(self) -> None:
        """Move the progress bar by one step."""
        if self._progress is not None:
            self._progress.advance()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by name; nothing where there are none."""
        for writer in self._writers if values else ():
            writer.scalars(step, values)

    def picture(self, step: int, name: str, picture: UInt8[np.ndarray, "h w c"]) -> None:
        """Log a picture."""
        for writer in self._writers:
            writer.picture(step, name, picture)


@jax.jit
def add_logs(
    meter: Mapping[str, clu_metrics.Average] | None, logs: Mapping[str, Array]
) -> dict[str, clu_metrics.Average]:
    """`meter`, the averages on the device since the last log point (None: none yet), with a step's logs added. Skipped
    steps do not count.
    """
    finite = jnp.isfinite(logs["loss"]) & jnp.isfinite(logs["grad_norm"])
    now = {
        name: clu_metrics.Average(total=jnp.where(finite, value, 0.0), count=finite.astype(jnp.int32))
        for name, value in logs.items()
    }
    return now if meter is None else {name: meter[name].merge(average) for name, average in now.items()}
