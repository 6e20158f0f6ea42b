"""Configs: read from a file or a run, overridden from the command line, checked, compared.

A wrong key or value raises UserError with the nearest right name.
"""

import ast
import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jdiff.common.errors import UserError
from jdiff.common.names import nearest
from jdiff.common.paths import expanded
from jdiff.common.settings import IDENTITY, SILENT, Setting
from jdiff.migration import RENAMED_VALUES, VERSION, migrated, now_called

FILE = "config.json"
SPLIT = "split.csv"  # of which images a run trains on and which are held out
TEXT_ENCODER = "text_encoder"  # a copy of a frozen one
FLAGS = ("config", "workdir", "mode", "out", "debug", "help")
# Groups that may be overridden where a trained run is used.
OVERRIDABLE = (
    "sample.",
    "guidance.",
    "segment.",
    "eval.",
    "tune.",
    "log.",
    "checkpoint.",
    "serve.",
    "machine.",
    "train.steps",
    "train.initial",
    "network.dtype",
    "space.tile",
    "space.dtype",
    "space.autoencoder",
    "autoencoder.lpips",
    "condition.text.path",
)
DURATIONS = ("train.steps", "train.epochs", "train.images")
SHIPPED = next(  # beside the package in a repository, within it once installed
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
)

_LOADING = threading.RLock()  # a config's imports stand in sys.modules for a moment, and runs are loaded by threads


@cache
def settings() -> Mapping[str, Setting]:
    """Every key: configs/base.py's table."""
    with _module(SHIPPED / "base.py") as module:
        return module.SETTINGS


def defaults() -> ConfigDict:
    """Every key with its default."""
    return load(SHIPPED / "base.py")


def load(name: str | Path) -> ConfigDict:
    """The result of get_config() of a config file (see `find`)."""
    with _module(find(name)) as module:
        return module.get_config()


def find(name: str | Path) -> Path:
    """The file that `name` means: this path, or else a config that ships with jdiff: "digits", "configs/digits.py"."""
    path = expanded(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{path.stem}.py"
    if shipped.is_file() and path.parent in (Path("."), Path("configs")) and path.suffix in ("", ".py"):
        return shipped
    folder = path.parent if path.suffix and path.parent.is_dir() else SHIPPED
    near = sorted(other.name if path.suffix else other.stem for other in folder.glob("[!_]*.py"))
    hint = nearest(path.name, near) or (f"; {folder} holds {', '.join(near)}" if near else "")
    raise UserError(f"there is no config file {path}{hint}")


@contextmanager
def _module(path: Path) -> Iterator[ModuleType]:
    """The module of a config file, run anew. Within, `from configs import base` finds a file beside it, or else one of
    jdiff's, whatever package of that name the user has.
    """
    spec = importlib.util.spec_from_file_location(f"jdiff_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a config is one, with a function get_config()")
    module = importlib.util.module_from_spec(spec)
    configs = ModuleType("configs")
    configs.__path__ = [str(path.absolute().parent), str(SHIPPED)]
    with _LOADING:
        theirs = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "configs"}
        sys.modules["configs"] = configs
        try:
            spec.loader.exec_module(module)
            yield module
        except Exception as error:  # whatever the user's file does
            raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
                del sys.modules[name]
            sys.modules.update(theirs)


def of_run(workdir: Path) -> ConfigDict:
    """The config of the run in `workdir`, over today's defaults."""
    file = workdir / FILE
    again = f'copy it again, or put there what {workdir}/checkpoints/STEP/meta/metadata holds under "config"'
    if not file.is_file():
        if any(workdir.glob("checkpoints/*/meta")):
            raise UserError(f"{workdir} holds checkpoints without their {FILE}: {again}")
        if (workdir / "model_index.json").is_file():
            raise UserError(
                f"{workdir} holds a pipeline of diffusers, which jdiff.load reads: "
                f"jdiff.load({str(workdir)!r}).export(FOLDER) makes a run's folder of it"
            )
        raise UserError(f"{workdir} holds no run (no {FILE}); train one with --config=FILE --workdir={workdir}")
    try:
        config = read(json.loads(file.read_text()))
        if (workdir / SPLIT).is_file():
            config.data.split_of = str(workdir)
        if (workdir / TEXT_ENCODER).is_dir():
            config.condition.text.path = str(workdir / TEXT_ENCODER)
        return config
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is damaged ({error}): {again}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not a config of this version of jdiff: {_one_line(error)}") from error


def read(values: dict[str, Any]) -> ConfigDict:
    """The config of saved values of any version, over today's defaults."""
    config = defaults()
    _update(config, migrated(values))
    return config


def _update(config: ConfigDict, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _update(config[name], value)
        else:
            config[name] = _frozen(value)


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def override(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """`config` with --config.group.key=value arguments applied, each value read by its key's type."""
    names = [name for name, _ in items(config)]
    optional = [name for name, setting in settings().items() if setting.default is None]
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
        if fault := _unreadable(settings().get(name), argument):
            raise UserError(f"{name}={argument.partition('=')[2]!r} {fault}")
        last[name] = argument
    # What absl's parsers do not read: None, and keys of a number or two.
    apart = [one for name, one in last.items() if one.endswith("=None") or _or_two(name)]
    rest = [argument for argument in last.values() if argument not in apart]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["jdiff", *rest])
        extra = values(["jdiff", *rest])[1:]
        for argument in apart:
            name, _, text = argument.lstrip("-").removeprefix("config.").partition("=")
            group, _, key = name.rpartition(".")
            (values.config[group] if group else values.config)[key] = ast.literal_eval(text)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(f"{_one_line(error)}") from error
    if extra:
        raise UserError(f"unknown argument {extra[0]!r}; overrides look like --config.train.steps=100")
    changed = values.config
    durations = {name for name in DURATIONS if name in last and config_value(changed, name)}
    for name in DURATIONS if durations else ():  # the duration given goes before the config's own
        if name not in durations:
            changed.train[name.removeprefix("train.")] = 0
    return changed


Several = tuple[tuple[str, tuple[Any, ...]], ...]  # keys with the values that each takes in turn


SWEPT = ("sample.", "guidance.", "segment.")


def several(config: ConfigDict, arguments: Sequence[str]) -> tuple[list[str], Several]:
    """(the arguments with one value each, the keys of SWEPT groups that were given several): such as
    --config.sample.steps="(5, 10, 20)". Raises UserError for none at all, and for a value that its key does not take.
    """
    single: list[str] = []
    found: dict[str, tuple[Any, ...]] = {}
    for argument in _joined(arguments):
        flag, _, text = argument.partition("=")
        name = flag.lstrip("-").removeprefix("config.")
        setting = settings().get(name) if name.startswith(SWEPT) else None
        one = setting is not None and not isinstance(setting.default, tuple)
        if not one or not text.startswith(("(", "[")):
            single.append(argument)
            found.pop(name, None)
            continue
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise UserError(f'{name}={text!r} is no list of values; write as in --config.{name}="(a, b)"') from error
        values = tuple(values) if isinstance(values, (tuple, list)) else (values,)
        if not values:
            raise UserError(f"{name}={text!r} asks for nothing: an empty sweep; give at least one value")
        for value in values:
            check_values(override(config, [f"{flag}={value}"]), name.partition(".")[0])
        found[name] = values
        single.append(f"{flag}={values[0]}")
    return single, tuple((name, values) for name, values in found.items() if len(values) > 1)


def given(arguments: Sequence[str]) -> tuple[str, ...]:
    """The keys of the groups sample and guidance among the arguments."""
    names = (argument.partition("=")[0].lstrip("-").removeprefix("config.") for argument in _joined(arguments))
    return tuple(name for name in names if name.startswith(("sample.", "guidance.")))


def _unreadable(setting: Setting | None, argument: str) -> str:
    """What is wrong with a number or a truth value as it stands on the command line; "" where nothing is."""
    _, given, text = argument.partition("=")
    kind = (setting.kind or type(setting.default)) if setting else str
    if not given or text == "None" or kind not in READERS:
        return ""
    two = setting is not None and setting.or_two
    read, what = (_one_or_two, "a whole number, or two in parentheses") if two else READERS[kind]
    try:
        read(text)
    except ValueError:
        return f"must be {what}"
    return ""


def _or_two(name: str) -> bool:
    setting = settings().get(name)
    return setting is not None and setting.or_two


def _one_or_two(text: str) -> None:
    try:
        value = ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(text) from error
    if isinstance(value, bool) or not isinstance(value, (int, tuple)):
        raise ValueError(text)


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "t", "f", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "t", "1")


READERS: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (_truth, "true or false"),
}


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
    for (name, old), new in RENAMED_VALUES.items():
        if config_value(config, name) == old:
            raise UserError(f"{name}={old!r} is called {new!r} now")
    check_values(config)
    train, network, text = config.train, config.network, config.condition.text
    if not (train.steps or train.epochs or train.images):
        raise UserError("say how long to train: one of train.steps, train.epochs and train.images must be set")
    if len(train.since) != 2:
        raise UserError(f"train.since={train.since} must be (step, images seen): leave it out, it is filled in")
    if train.batch_size % train.accumulate:
        raise UserError(f"train.batch_size={train.batch_size} does not divide by train.accumulate={train.accumulate}")
    if len(set(train.ema_widths)) < len(train.ema_widths):
        raise UserError(f"train.ema_widths={train.ema_widths} holds a width twice: leave one out")
    if text.width % text.heads:
        raise UserError(f"condition.text.width={text.width} does not divide by condition.text.heads={text.heads}")
    _check_order(config)
    if network.down_padding not in ((), (0, 1), (1, 1), (1, 0)):
        raise UserError(f"network.down_padding={network.down_padding} must be (), (0, 1), (1, 1) or (1, 0)")
    for name in ("channels", "noise_channels"):
        if network[name] % 2:
            raise UserError(f"network.{name}={network[name]} must be even")
    levels = len(network.channel_mults)
    if not levels:
        raise UserError(f"network.channel_mults={network.channel_mults} must hold whole numbers of at least 1")
    if any(level not in range(levels) for level in network.attention_levels):
        raise UserError(
            f"network.attention_levels={network.attention_levels} must lie in 0..{levels - 1}: "
            f"network.channel_mults has {levels} levels"
        )


def _check_order(config: ConfigDict) -> None:
    """Raises UserError for settings that data.buckets and data.balance do not go with."""
    data = config.data
    if data.balance_power != 1.0 and not data.balance:
        raise UserError(f"data.balance_power={data.balance_power} says how far: set data.balance=class, or a column")
    if not data.buckets:
        return
    if not isinstance(data.image_size, int) or not data.image_size:
        raise UserError(
            f"data.buckets={data.buckets} needs one data.image_size, as in data.image_size=64: each shape has about "
            "image_size x image_size pixels"
        )
    if data.quarter_turns:
        raise UserError("data.quarter_turns turns square pictures alone: with data.buckets set it to False")
    if data.resize == "random_crop":
        raise UserError("data.resize='random_crop' crops at random what data.buckets keeps whole: set data.resize=adm")


def check_values(config: ConfigDict, *groups: str) -> None:
    """Raises UserError for a value that base.py's table does not allow; of these groups alone, where some are named."""
    known = settings()
    for name, value in items(config):
        if not groups or name.partition(".")[0] in groups:
            known_as(name, known)
            if fault := known[name].fault(value):
                raise UserError(f"{name}={value} {fault}")


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


def known_as(name: str, known: Collection[str]) -> None:
    """Raises UserError with the nearest name where `name` is not among the known ones."""
    if name not in known:
        raise UserError(f"unknown setting {name!r}{now_called(name, nearest(name, list(known)))}")


def denoises(config: ConfigDict) -> bool:
    """Whether a denoiser is trained."""
    return config.task in ("diffusion", "flow_map")


def adapts(config: ConfigDict) -> bool:
    """Whether the network has an adapter to a condition image."""
    return "image" in config.model.conditions and config.condition.image.into == "adapter"


def stands_beside(config: ConfigDict) -> bool:
    """Whether what is trained stands beside the frozen weights of train.initial."""
    return bool(config.lora.rank) or adapts(config)


def check_resumable(saved: ConfigDict, given: ConfigDict, workdir: Path) -> dict[str, tuple[Any, Any]]:
    """What the config given changes of the run in `workdir`, name -> (there, here), of the keys whose changes are told.

    Raises UserError that names what differs of the keys that say what its weights are.
    """
    unlike = differences(saved, given)
    there, here = unlike.get("condition.image.shape", ((), ()))
    if there[-1:] == here[-1:]:  # the weights know of its channels alone
        unlike.pop("condition.image.shape", None)
    fixed = {name: both for name, both in unlike.items() if _stays(name, saved, given)}
    if fixed:
        raise UserError(
            f"{workdir} holds a run of another model: {_in_words(fixed)}; give another --workdir, or the run's own "
            "values"
        )
    return {name: both for name, both in unlike.items() if settings()[name].resume != SILENT}


def _stays(name: str, saved: ConfigDict, given: ConfigDict) -> bool:
    """Whether a run cannot go on with another value of this key."""
    if name == "data.augment":  # the network is conditioned on it
        return bool(saved.data.augment) != bool(given.data.augment)
    if name.startswith("train.initial") and stands_beside(given):  # read again at each start, wherever it lies by now
        return False
    return settings()[name].resume == IDENTITY


def check_same_model(saved: ConfigDict, given: ConfigDict, workdir: Path) -> None:
    """Raises UserError that names what cannot be overridden any more, the model being trained."""
    unlike = {name: both for name, both in differences(saved, given).items() if not name.startswith(OVERRIDABLE)}
    if unlike:
        raise UserError(
            f"the model in {workdir} is trained already: {_in_words(unlike)}; override sample, guidance, eval and "
            "segment alone"
        )


def differences(saved: ConfigDict, given: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """name -> (there, here) of the keys whose values are not the saved ones."""
    before, now = dict(items(saved)), dict(items(given))
    return {name: (before.get(name), now[name]) for name in now if before.get(name) != now[name]}


def _in_words(unlike: Mapping[str, tuple[Any, Any]]) -> str:
    facts = "; ".join(f"{name} is {before!r} there, {now!r} here" for name, (before, now) in list(unlike.items())[:5])
    return facts + (f" and {len(unlike) - 5} more" if len(unlike) > 5 else "")


def to_json(config: ConfigDict) -> str:
    """`saved` as text."""
    return json.dumps(saved(config), indent=2)


def saved(config: ConfigDict) -> dict[str, Any]:
    """The config as config.json holds it, with the version of its keys; a run may move, so not where it lies."""
    values = config.to_dict()
    return {"version": VERSION, **values, "data": {**values["data"], "split_of": ""}}


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args else error
    return " ".join(str(text).split())
