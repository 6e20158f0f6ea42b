"""The pages that follow from the code (every key of a config, every mode, every sampler), and the notebooks."""

import json
import re
from pathlib import Path

import jdiff.config
from jdiff import from_config
from jdiff.common.settings import IDENTITY, SILENT, Setting
from jdiff.config import defaults
from jdiff.diffusion.samplers import Sampler
from jdiff.from_config.sampling import SAMPLERS
from jdiff.main import MODES
from jdiff.usage import GROUPS

REPOSITORY = Path(__file__).parents[1]
RUNGS = (10, 18)
CHANGES = {IDENTITY: "refused", SILENT: "free", "told": "told"}
KEYS = """# Every key

As `jdiff --help=all` prints them, from `configs/base.py`: `--config.KEY=VALUE` in a command, `config.KEY = VALUE` in a
config file. *Changed* says what happens where a run goes on with another value: `refused` (the key says what the
weights are), `told` (the run goes on, and its history names the change), `free` (the weights come out the same)."""
SAMPLERS_PAGE = """# Every sampler

`sample.sampler` takes these names. NFE: denoiser calls an image, of so many rungs. Measured: on the digits model,
unguided; digits read as the class asked for, and the Frechet distance of their pixels to held-out digits
([protocol](../results.md))."""
ROW = re.compile(r"^\| (\w+) \| ([^|]*) \| (\d+) \| ([\d.]+%) \| ([\d.]+) \| [\d,]+ \|$", re.MULTILINE)


def write(folder: Path) -> None:
    """Write the pages to the folder."""
    pages = {"keys.md": keys(), "modes.md": modes(), "samplers.md": samplers()}
    for notebook in sorted((REPOSITORY / "notebooks").glob("*.ipynb")):
        held = json.loads(notebook.read_text("utf-8"))
        held["metadata"]["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}  # knows lines with !
        pages[f"notebooks/{notebook.name}"] = json.dumps(held)
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        file = folder / name
        if not file.is_file() or file.read_text("utf-8") != text:  # unchanged pages are not built anew
            file.write_text(text, "utf-8")


def keys() -> str:
    """Every key with default, meaning, allowed values, and what a change does to a run that goes on."""
    text = [KEYS]
    settings = jdiff.config.settings()
    text.append(_table([(name, one) for name, one in settings.items() if "." not in name]))
    for group in GROUPS:
        text += [f"## {group}", _table([(name, one) for name, one in settings.items() if name.startswith(f"{group}.")])]
    return "\n\n".join(text) + "\n"


def _table(rows: list[tuple[str, Setting]]) -> str:
    lines = ["| key | default | meaning | allowed | changed |", "| --- | --- | --- | --- | --- |"]
    for name, one in rows:
        default = "" if one.default is None else f"`{one.default!r}`" if one.default != "" else '`""`'
        allowed = f"`{one.allowed}`" if one.allowed else ""
        lines.append(f"| `{name}` | {default} | {_cell(one.meaning)} | {allowed} | {CHANGES[one.resume]} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    for plain, escaped in (("|", r"\|"), ("<", "&lt;"), ("*", r"\*"), ("[", r"\["), ("_", r"\_"), ("$", r"\$")):
        text = text.replace(plain, escaped)
    return text


def modes() -> str:
    """Every mode."""
    lines = ["# Every mode", "| `--mode=` | what it does | of a trained run |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {mode.what} | {'yes' if mode.of_run else ''} |" for name, mode in MODES.items()]
    return "\n".join([lines[0], "", *lines[1:]]) + "\n"


def samplers() -> str:
    """Every sampler: formula and source by its class's docstring, order, NFE, and its measured row."""
    measured: dict[str, list[str]] = {}
    for name, settings, nfe, right, distance in ROW.findall(
        (REPOSITORY / "benchmarks" / "RESULTS.md").read_text("utf-8")
    ):
        measured.setdefault(name, []).append(f"| {settings} | {nfe} | {right} | {distance} |")
    text = [SAMPLERS_PAGE]
    for name in SAMPLERS:
        sample = defaults().sample
        sample.sampler = name
        solver = from_config.sampler(sample)
        kind = type(solver)
        text += [
            f"## {name}",
            _facts(solver),
            f"```{{eval-rst}}\n.. autoclass:: jdiff.diffusion.samplers.{kind.__name__}\n   :noindex:\n```",
        ]
        if rows := measured.get(name):
            text.append(
                "\n".join(["| measured with | NFE | read right | distance |", "| --- | --- | --- | --- |", *rows])
            )
    return "\n\n".join(text) + "\n"


def _facts(solver: Sampler) -> str:
    calls = [(rungs, solver.nfe(rungs)) for rungs in RUNGS]
    told = (
        ", ".join(f"{nfe} at {rungs} rungs" for rungs, nfe in calls if nfe is not None)
        or "as many as its tolerance asks for"
    )
    noise = "adds noise" if solver.random else "adds no noise"
    return f"Order {solver.order}; {noise} as it is by default; NFE {told}."
