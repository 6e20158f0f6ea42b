"""Configs: read from a file or a run, overridden from the command line, checked, compared.

A wrong key or value raises UserError with the nearest right name.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.migration import RENAMED_VALUES, VERSION, migrated, now_called

FILE = "config.json"
FLAGS = ("config", "workdir", "mode", "out", "debug", "help")
DURATIONS = ("train.steps", "train.epochs", "train.images")
# What may differ between a run and the command that resumes it.
FREE_ON_RESUME = ("train.steps", "sample.", "guidance.", "eval.", "log.", "checkpoint.", "machine.")
LEAST = {
    "train.batch_size": 1,
    "train.accumulate": 1,
    "train.max_skipped_in_row": 1,
    "train.holdout_images": 0,
    "train.sample_every": 0,
    "train.trajectory_every": 0,
    "train.steps": 0,
    "train.images": 0,
    "train.epochs": 0,
    "train.learning_rate": 0,
    "train.warmup_images": 0,
    "train.clip_norm": 0,
    "train.ema_halflife_images": 0,
    "train.ema_rampup": 0,
    "seed": 0,
    "data.image_size": 0,
    "model.schedule_steps": 1,
    "objective.vlb": 0,
    "log.every": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "machine.fsdp": 1,
    "machine.workers": 0,
    "machine.threads": 1,
    "machine.prefetch": 1,
    "network.channels": 1,
    "network.blocks_per_level": 1,
    "network.attention_heads": 1,
    "network.head_channels": 0,
    "lora.rank": 0,
    "network.transformer_depth": 1,
    "network.norm_groups": 0,
    "network.noise_channels": 0,
    "network.width": 1,
    "network.depth": 1,
    "network.patch_size": 1,
    "condition.text.length": 3,
    "condition.text.width": 1,
    "condition.text.depth": 1,
    "condition.text.heads": 1,
    "condition.image.factor": 1,
    "condition.image.width": 1,
    "condition.image.downsamples": 0,
}
# What must be above 0, where it is set at all.
POSITIVE = (
    "model.sigma_data",
    "model.beta_start",
    "model.beta_end",
    "model.flow_shift",
    "objective.std",
    "objective.gamma",
    "objective.huber_delta",
    "network.norm_eps",
    "lora.alpha",
)


def defaults() -> ConfigDict:
    """Every key with its default: configs/base.py, which lies beside the package."""
    return load(Path(__file__).parents[1] / "configs" / "base.py")


def load(path: str | Path) -> ConfigDict:
    """The result of the file's get_config()."""
    path = Path(path)
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = nearest(path.name, near) or (f"; {path.parent} holds {', '.join(near)}" if near else "")
        raise UserError(f"there is no config file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"jdiff_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config is one, with a function get_config()")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.absolute().parent.parent))  # for `from configs import base`
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    except Exception as error:  # whatever the user's file does
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.path.pop(0)


def of_run(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`, over today's defaults."""
    file = workdir / FILE
    if not file.is_file():
        raise UserError(f"{workdir} holds no run (no {FILE}); train one with --config=FILE --workdir={workdir}")
    config = defaults()
    try:
        _update(config, migrated(json.loads(file.read_text())))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not a config of this version of jdiff: {_one_line(error)}") from error
    return config


def _update(config: ConfigDict, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _update(config[name], value)
        else:
            config[name] = tuple(value) if isinstance(value, list) else value


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """`config` with --config.group.key=value arguments applied, each value read by its key's type."""
    names = [name for name, _ in items(config)]
    optional = [name for name, value in items(defaults()) if value is None]
    last: dict[str, str] = {}  # of several values for a key the last one counts (config_flags would join tuples)
    for argument in _joined(arguments):
        flag = argument.split("=")[0].lstrip("-")
        name = flag.removeprefix("noconfig.").removeprefix("config.")
        if argument.startswith("-") and not flag.startswith(("config.", "noconfig.")):
            raise UserError(f"unknown flag --{flag}{nearest(flag, [*FLAGS, *(f'config.{key}' for key in names)])}")
        if argument.startswith("-") and name not in names:
            raise UserError(f"unknown config key {name!r}{now_called(name, nearest(name, names))}")
        if argument.endswith("=None") and name not in optional:
            raise UserError(f"--{flag}=None: {name} needs a value")
        last[name] = argument
    none = [argument for argument in last.values() if argument.endswith("=None")]
    rest = [argument for argument in last.values() if argument not in none]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["jdiff", *rest])
        extra = values(["jdiff", *rest])[1:]
        for argument in none:  # absl's parsers read no None
            group, _, key = argument.removesuffix("=None").lstrip("-").removeprefix("config.").rpartition(".")
            (values.config[group] if group else values.config)[key] = None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{_one_line(error)}") from error
    if extra:
        raise UserError(f"unknown argument {extra[0]!r}; overrides look like --config.train.steps=100")
    changed = values.config
    durations = {name for name in DURATIONS if name in last and config_value(changed, name)}
    for name in DURATIONS if durations else ():  # the duration given goes before the config's own
        if name not in durations:
            changed.train[name.removeprefix("train.")] = 0
    return changed


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """--key value as --key=value."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--") and "=" not in argument and rest and not rest[0].startswith("--"):
            argument += "=" + rest.pop(0)
        yield argument


def items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every key."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from items(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check(config: ConfigDict) -> None:
    """Raises UserError where a value cannot be right whatever the data are."""
    for name, value in items(config):
        _check_elements(name, value)
    for (name, old), new in RENAMED_VALUES.items():
        if config_value(config, name) == old:
            raise UserError(f"{name}={old!r} is called {new!r} now")
    for name, least in LEAST.items():
        if config_value(config, name) < least:
            raise UserError(f"{name}={config_value(config, name)} must be at least {least}")
    if not 0 <= config.data.augment <= 1:
        raise UserError(f"data.augment={config.data.augment} must lie in [0, 1]")
    for name in ("model.drop_rate", "network.dropout", "data.holdout", "train.b1", "train.b2"):
        if not 0 <= config_value(config, name) < 1:
            raise UserError(f"{name}={config_value(config, name)} must lie in [0, 1)")
    for condition, settings in config.condition.items():
        if settings.drop_rate is not None and not 0 <= settings.drop_rate < 1:
            raise UserError(f"condition.{condition}.drop_rate={settings.drop_rate} must lie in [0, 1)")
    if config.condition.text.width % config.condition.text.heads:
        raise UserError(
            f"condition.text.width={config.condition.text.width} does not divide by "
            f"condition.text.heads={config.condition.text.heads}"
        )
    if config.network.down_padding not in ((), (0, 1), (1, 1), (1, 0)):
        raise UserError(f"network.down_padding={config.network.down_padding} must be (), (0, 1), (1, 1) or (1, 0)")
    if config.network.noise_channels % 2:
        raise UserError(f"network.noise_channels={config.network.noise_channels} must be even")
    for name in POSITIVE:
        if (value := config_value(config, name)) is not None and not value > 0:
            raise UserError(f"{name}={value} must be above 0")
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed} must be below 2^32")
    check_sample(config.sample)
    train = config.train
    if not (train.steps or train.epochs or train.images):
        raise UserError("say how long to train: one of train.steps, train.epochs and train.images must be set")
    if train.batch_size % train.accumulate:
        raise UserError(f"train.batch_size={train.batch_size} does not divide by train.accumulate={train.accumulate}")
    levels = len(config.network.channel_mults)
    if not levels or min(config.network.channel_mults) < 1:
        raise UserError(f"network.channel_mults={config.network.channel_mults} must hold whole numbers of at least 1")
    if config.network.channels % 2:
        raise UserError(f"network.channels={config.network.channels} must be even")
    if any(level not in range(levels) for level in config.network.attention_levels):
        raise UserError(
            f"network.attention_levels={config.network.attention_levels} must lie in 0..{levels - 1}: "
            f"network.channel_mults has {levels} levels"
        )


def check_sample(sample: ConfigDict) -> None:
    """Raises UserError where a value of the group `sample` cannot be right."""
    for name in ("num_images", "batch_size", "steps", "corrector_steps"):
        if sample[name] < 1:
            raise UserError(f"sample.{name}={sample[name]} must be at least 1")
    for name in ("rtol", "atol"):
        if sample[name] < 1e-6:
            raise UserError(f"sample.{name}={sample[name]} is finer than float32 can tell; at least 1e-6")
    for name in ("rho", "flow_shift", "langevin_step"):
        if sample[name] is not None and not sample[name] > 0:
            raise UserError(f"sample.{name}={sample[name]} must be above 0")
    if not 0 <= sample.seed < 2**32:
        raise UserError(f"sample.seed={sample.seed} must lie in 0..2^32 - 1")
    if sample.eta is not None and not 0 <= sample.eta <= 1:
        raise UserError(f"sample.eta={sample.eta} must lie in [0, 1]")
    if sample.order is not None and sample.order not in (1, 2, 3, 4):
        raise UserError(f"sample.order={sample.order} must be 1, 2, 3 or 4")


def _check_elements(name: str, value: Any) -> None:
    """Tuples of a config hold whole numbers, save a few."""
    kinds: dict[str, tuple[tuple[type, ...], str]] = {
        "model.conditions": ((str,), "names"),
        "guidance.conditions": ((str,), "names"),
        "condition.scalars.names": ((str,), "names"),
        "lora.layers": ((str,), "names"),
        "sample.texts": ((str,), "texts"),
        "sample.labels": ((int, str, tuple), "whole numbers or names of classes"),
        "data.class_names": ((str,), "names"),
        "data.folders": ((str,), "names of folders"),
        "data.suffixes": ((str,), "endings of names"),
        "data.names": ((str,), "names"),
        "data.masks": ((str,), "names"),
        "data.range": ((float,), "numbers"),
        "condition.image.range": ((float,), "numbers"),
        "sample.sigmas": ((float, int), "numbers"),
    }
    kind, what = kinds.get(name, ((int,), "whole numbers"))
    wrong = [element for element in value if type(element) not in kind] if isinstance(value, tuple) else []
    if wrong:
        raise UserError(f"{name}={value} must hold {what}; {wrong[0]!r} is none")


def config_value(config: ConfigDict, name: str) -> Any:
    """The value of a dotted name."""
    for part in name.split("."):
        config = config[part]
    return config


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value`, if it is among the allowed ones; else UserError with all of them and the nearest."""
    if value not in allowed:
        raise UserError(f"{name}={value!r} is unknown{nearest(value, allowed)}; it is one of {', '.join(allowed)}")
    return value


def known_as(name: str, known: Sequence[str]) -> None:
    """Raises UserError with the nearest name where `name` is not among the known ones."""
    if name not in known:
        raise UserError(f"unknown setting {name!r}{now_called(name, nearest(name, known))}")


def check_resumable(saved: ConfigDict, given: ConfigDict, workdir: Path) -> None:
    """Raises UserError that names what differs between the run in `workdir` and the config given."""
    unlike = _differences(saved, given)
    if unlike:
        raise UserError(
            f"{workdir} holds a run of another config: {unlike}; give another --workdir, or the run's own values"
        )


def check_same_model(saved: ConfigDict, given: ConfigDict, workdir: Path) -> None:
    """Raises UserError that names what cannot be overridden any more, the model being trained."""
    unlike = _differences(saved, given)
    if unlike:
        raise UserError(f"the model in {workdir} is trained already: {unlike}; override sample and guidance alone")


def _differences(saved: ConfigDict, given: ConfigDict) -> str:
    """What differs of the keys that may not, in words; "" where nothing does."""
    before, now = dict(items(saved)), dict(items(given))
    unlike = [name for name in now if before.get(name) != now[name] and not name.startswith(FREE_ON_RESUME)]
    facts = "; ".join(f"{name} is {before.get(name)!r} there, {now[name]!r} here" for name in unlike[:5])
    return facts + (f" and {len(unlike) - 5} more" if len(unlike) > 5 else "")


def to_json(config: ConfigDict) -> str:
    """`saved` as text."""
    return json.dumps(saved(config), indent=2)


def saved(config: ConfigDict) -> dict[str, Any]:
    """The config as config.json holds it, with the version of its keys."""
    return {"version": VERSION, **config.to_dict()}


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return " ".join(str(text).split())
