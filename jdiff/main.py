"""The command.

python -m jdiff.main --config=FILE [--workdir=DIR] [--mode=MODE] [--out=DIR2] [--config.group.key=value ...]
"""

# Data workers import this module anew: nothing heavy at the top.
import importlib
import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from jdiff.common import distributed
from jdiff.common.errors import UserError, first_line, is_out_of_memory
from jdiff.common.paths import expanded
from jdiff.common.signals import stoppable
from jdiff.usage import keys, usage

if __name__ == "__mp_main__":  # a data worker: devices are not for it, and Grain does without JAX
    sys.modules["jax"] = None  # type: ignore[assignment]
    logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Mode:
    """A mode is jdiff/modes/<name>.py with a function of its name, (config, workdir, out) -> exit status.

    what: what it does, for --help. of_run: it takes a trained run, whose config it is. alone: whether, with these
    overrides, a config does without one. computes: it runs JAX. sweeps: a setting of sampling may be given several
    values.
    """

    what: str
    of_run: bool = False
    alone: Callable[[Sequence[str]], bool] = lambda overrides: False
    computes: bool = True
    sweeps: bool = False


MODES = {
    "train": Mode("train, or go on training (the default)"),
    "sample": Mode("draw images by a run's model", of_run=True),
    "evaluate": Mode(
        "FID and its like of what a run draws, or of images that exist",
        of_run=True,
        alone=lambda given: any("eval.images" in one for one in given),
        sweeps=True,
    ),
    "stats": Mode("the reference that evaluate compares with, as a file", of_run=True, alone=lambda given: True),
    "export": Mode("a run as one folder of safetensors", of_run=True),
    "inspect": Mode("what is in your data, and what is wrong with them", computes=False),
    "prepare": Mode("data packed once into files that training reads fast"),
    "reconstruct": Mode("what an autoencoder makes of images", of_run=True),
    "segment": Mode("masks of a folder of images, with their uncertainty", of_run=True),
    "serve": Mode("a page to draw from a run, and to watch one that trains", of_run=True),
    "tune": Mode("the best sampler for a number of network calls", of_run=True),
}


def make_flags() -> flags.FlagValues:
    """The flags of the command, its config's overrides apart."""
    values = flags.FlagValues()
    for name, default in (("config", None), ("workdir", None), ("mode", "train"), ("out", None)):
        flags.DEFINE_string(name, default, "see jdiff/usage.py", flag_values=values)
    flags.DEFINE_bool("debug", False, "see jdiff/usage.py", flag_values=values)
    flags.DEFINE_bool("help", False, "see jdiff/usage.py", short_name="h", flag_values=values)
    return values


def run(options: flags.FlagValues, overrides: Sequence[str], begin: Callable[[], None]) -> int:
    """Read the config, run the mode; the exit status. begin: called when all is imported."""
    import jdiff.config

    name = jdiff.config.one_of("--mode", options.mode, list(MODES))
    mode = MODES[name]
    if not options.config and not (mode.of_run and options.workdir):
        if mode.of_run:
            or_config = ", or --config=FILE" if mode.alone(overrides) else ""
            raise UserError(f"--mode={name} needs --workdir=DIR, the folder of a trained run{or_config}")
        raise UserError(f"--mode={name} needs --config=FILE, such as --config=configs/digits.py")
    workdir = expanded(options.workdir or f"runs/{Path(options.config).stem}")
    of_run = mode.of_run and not (options.config and mode.alone(overrides))
    saved = jdiff.config.of_run(workdir) if of_run else jdiff.config.load(options.config)
    single, several = jdiff.config.several(saved, overrides) if mode.sweeps else (overrides, ())
    config = jdiff.config.override(saved, single)
    if of_run:
        jdiff.config.check_same_model(jdiff.config.of_run(workdir), config, workdir)
    if several:
        config.eval.sweep = several
    if config.sample.preset or "sample.preset" in dict(several) or (of_run and config.sample.ladder == "by_hand"):
        config.sample.given = jdiff.config.given(overrides)
    jdiff.config.check(config)
    if mode.computes:
        prepare_jax(config, debug=options.debug)
    function = getattr(importlib.import_module(f"jdiff.modes.{name}"), name)
    begin()
    return function(config, workdir, expanded(options.out) if options.out else None)


def prepare_jax(config: Any, *, debug: bool = False) -> None:
    """What must be set before JAX's first computation. debug: of several processes, JAX's own words when one dies."""
    import jax

    from jdiff.common.host import keep_freed_memory, use_all_cores

    if config.machine.distributed:
        distributed.join(config.machine, debug=debug)
    else:
        use_all_cores(config.train.batch_size // config.train.accumulate)
    keep_freed_memory()
    if config.machine.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(expanded(config.machine.compilation_cache)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit status. A user's mistake ends in one line on stderr."""
    options = make_flags()
    debug = "--debug" in arguments
    try:
        if groups := [one.partition("=")[2] for one in arguments if one.startswith("--help=")]:
            print("\n".join(keys(group) for group in groups))
            return 0
        overrides = options(["jdiff", *arguments], known_only=True)[1:]
        if options.help:
            print(usage((name, mode.what) for name, mode in MODES.items()))
            return 0
        with stoppable() as begin:
            return run(options, overrides, begin)
    except (UserError, flags.Error) as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"jdiff: {' '.join(str(error).split())}", file=sys.stderr)
        return distributed.leave(1)
    except KeyboardInterrupt as stop:
        print("jdiff: stopped", file=sys.stderr)
        return distributed.leave(128 + (stop.args[0] if stop.args else signal.SIGINT))
    except BrokenPipeError:  # what we say is piped to a program that has heard enough, such as head
        sys.stdout = None
        return distributed.leave(141)
    except Exception as error:
        distributed.wait_for_verdict()
        if is_out_of_memory(error) and not debug:
            print(
                f"jdiff: out of memory in --mode={options.mode} ({first_line(error)}): end what else uses this "
                "machine's memory, or take a larger one",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        return distributed.leave(1)


def keep_background_quiet() -> None:
    """What fails in a background thread (a save, on a full disk) also reaches us as an exception and is told in one
    line; orbax, asyncio and tensorstore would print it dozens of times besides. Warnings take a line too.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    warnings.formatwarning = lambda message, *_: f"jdiff: {message}\n"
    # A save that fails leaves coroutines behind that nobody will await.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)

    def quiet(*exception: Any) -> None:
        pass

    sys.excepthook = threading.excepthook = sys.unraisablehook = quiet


if __name__ == "__main__":
    if "--debug" not in sys.argv:
        keep_background_quiet()
    sys.exit(main(sys.argv[1:]))
