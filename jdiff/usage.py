"""What `jdiff --help` and `jdiff --help=GROUP` print."""

from collections.abc import Iterable
from textwrap import fill

from jdiff.common.settings import IDENTITY, Setting

WIDTH = 100
# Those of configs/base.py, which a plain --help does not read: it answers at once.
GROUPS = (
    *("data", "model", "condition", "network", "autoencoder", "space", "objective", "flow_map", "train", "lora"),
    *("sample", "guidance", "eval", "tune", "segment", "log", "checkpoint", "serve", "machine"),
)
USAGE = """\
jdiff: image diffusion models, trained and sampled

    jdiff --config=FILE [--workdir=DIR] [--config.group.key=value ...]        train, or go on training
    jdiff --mode=MODE --workdir=DIR [--out=DIR2] [--config.group.key=value ...]

For example:

    jdiff --config=configs/digits.py
    jdiff --mode=sample --workdir=runs/digits --config.sample.num_images=100 --config.sample.steps=10
    jdiff --config=configs/folder.py --config.data.dir=photos --workdir=runs/photos

Modes:

{modes}

Flags:

  --config    a config file; a file of this name that ships with jdiff where there is none here
  --workdir   the run's folder (default: runs/<config's name>)
  --out       all but train: where to write (default: in the run's folder)
  --debug     show a traceback for a user's mistake too
  --help      this; --help=GROUP: a group's keys with their defaults, such as --help=sample. Groups:
{groups}"""


def usage(modes: Iterable[tuple[str, str]]) -> str:
    """The command in short. modes: their names and what they do."""
    told = "\n".join(f"  {name:<12}{what}" for name, what in modes)
    return USAGE.format(modes=told, groups=_indented(", ".join(GROUPS), 14))


def keys(asked: str) -> str:
    """The keys of a group, such as "sample" or "condition.text", with default and meaning; or one key; "all": all keys.

    Raises UserError where there is none of that name.
    """
    import jdiff.config  # here: it imports ml_collections, which a plain --help does without

    settings = jdiff.config.settings()
    asked = asked.removeprefix("config.").strip(".")
    found = {name: one for name, one in settings.items() if asked == "all" or f"{name}.".startswith(f"{asked}.")}
    if not found:
        jdiff.config.one_of("--help", asked, ["all", *GROUPS])
    return "\n".join(_told(name, setting) for name, setting in found.items())


def _told(name: str, setting: Setting) -> str:
    default = "" if setting.default is None else repr(setting.default) if setting.default != "" else '""'
    stays = " Stays as the run was begun." if setting.resume == IDENTITY else ""
    allowed = f" {setting.allowed}." if setting.allowed else ""
    return f"--config.{name}={default}\n{_indented(f'{setting.meaning}.{allowed}{stays}', 4)}"


def _indented(text: str, spaces: int) -> str:
    return fill(text, WIDTH, initial_indent=" " * spaces, subsequent_indent=" " * spaces, break_on_hyphens=False)
