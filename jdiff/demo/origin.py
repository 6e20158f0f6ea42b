"""Where the page's model is from; of it the command and the Python that draw what a visitor asked for."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jdiff.demo.asked import Asked
from jdiff.from_config import presets
from jdiff.request import FREE

PICTURES = "PICTURES"
# Keys that a run may be used with other values of, and by which it draws otherwise: all that begin so, but for IDLE.
DECISIVE = ("sample.", "guidance.", "network.dtype", "space.", "condition.text.path", "train.initial")
IDLE = {f"sample.{key}" for key in (*FREE, "images_per_condition")} - {"sample.ema", "sample.preset"}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """workdir: the run's folder, as visitors may know it. step: of its checkpoint; None of an export, which has one.
    overrides: the values of the config's keys that are not as in the run's own config.
    """

    workdir: str
    step: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def command(self, asked: Asked) -> str:
        """The command that draws the same images."""
        if "scalars" in asked.conditions:
            return "# the command takes no numbers as conditions; Python does"
        count = "images_per_condition" if asked.view else "num_images"
        sample = {count: asked.num_images, **_settings(asked)}
        if self.step is not None:
            sample["checkpoint"] = self.step
        values = {**{f"sample.{key}": value for key, value in sample.items()}, **self._in_force(asked)}
        keys = " ".join(shlex.quote(f"--config.{name}={value}") for name, value in values.items())
        note = f"# {PICTURES}: a folder with the picture\n" if asked.view else ""
        return f"{note}python -m jdiff.main --mode=sample --workdir={shlex.quote(self.workdir)} {keys}"

    def python(self, asked: Asked) -> str:
        """The Python that draws the same images, but for overrides that it does not take, which a comment names."""
        load, sample, others = [repr(self.workdir)], _settings(asked), []
        load += [] if self.step is None else [str(self.step)]
        for name, value in self._in_force(asked).items():
            group, _, key = name.partition(".")
            if name == "sample.ema":
                load.append(f"ema={value or 0}")
            elif group in ("sample", "guidance") and value is not None:
                sample[key] = value
            else:
                others.append(f"{name}={value}")
        given = ", ".join(f"{name}={value!r}" for name, value in sample.items())
        lacking = f"# the command alone takes {', '.join(others)}\n" if others else ""
        note = f"  # {PICTURES}: a folder with the picture" if asked.view else ""
        return (
            f"import jdiff\n\n{lacking}model = jdiff.load({', '.join(load)})\n"
            f"images = model.sample({asked.num_images}, {given}){note}"
        )

    def _in_force(self, asked: Asked) -> dict[str, Any]:
        """The overrides that decide what is drawn, where a visitor chose nothing else."""
        chosen = {f"sample.{key}" for key in _settings(asked)}
        if asked.preset:  # a preset's settings go before overrides, unless one came with an override
            chosen |= set(presets.KEYS) - set(self.overrides.get("sample.given", ()))
        return {
            name: _without_folders(value)
            for name, value in self.overrides.items()
            if name.startswith(DECISIVE) and name not in IDLE | chosen
        }


def _settings(asked: Asked) -> dict[str, Any]:
    """Keys of the group sample, and conditions."""
    of_picture = {"condition_dir": PICTURES, "condition_view": asked.view} if asked.view else {}
    return {**asked.settings, **of_picture}


def _without_folders(value: Any) -> Any:
    """A path of this machine by its last part, as the run's own is told."""
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return value.rstrip("/").rpartition("/")[2] if is_path else value
