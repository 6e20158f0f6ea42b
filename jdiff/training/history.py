"""history.txt of a run, for people: when it started and went on, on what, and what was changed at which step."""

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

from jdiff.common.errors import writing_to
from jdiff.common.processes import is_first_process

FILE = "history.txt"
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


def note(workdir: Path, step: int, *lines: str) -> None:
    """Append lines about `step`, with the time, by the first process alone."""
    if not is_first_process() or not lines:
        return
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    with writing_to(workdir), (workdir / FILE).open("a", encoding="utf-8") as file:
        file.writelines(f"{when}  step {step:,}: {line}\n" for line in lines)


def here() -> str:
    """The devices, processes and versions that a run goes on with."""
    kind, processes = jax.devices()[0].device_kind, jax.process_count()
    on = f"{jax.device_count()} x {kind}" + (f" in {processes} processes" if processes > 1 else "")
    return f"{on}; " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
