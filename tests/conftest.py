"""What tests share: shapes checked at run time, the command as a user runs it, one trained digits model."""

import atexit
import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import pytest
from jaxtyping import install_import_hook

# Under nohup, as some start their tests, commands would ignore it, as they should.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# What is compared to the last digits holds on a CPU; and the workers of pytest-xdist would share one GPU's memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all programs here compute for milliseconds, and XLA would take seconds to make them fast. The two flags halve
# what it takes without optimizing; an XLA that no longer knows one says so and stops: then leave it out.
FAST_COMPILE = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
GIVEN_FLAGS = os.environ.get("XLA_FLAGS", "").replace(FAST_COMPILE, "").strip()  # a worker inherits them
os.environ["XLA_FLAGS"] = f"{FAST_COMPILE} {GIVEN_FLAGS}".strip()
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# What was found of files is kept for these tests alone.
os.environ["JDIFF_CACHE"] = tempfile.mkdtemp(prefix="jdiff_tests_")
atexit.register(shutil.rmtree, os.environ["JDIFF_CACHE"], ignore_errors=True)

# An int passes where a float is asked for, as everywhere in Python.
with install_import_hook("jdiff", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"):
    import jdiff.from_config
    import jdiff.modes.train  # noqa: F401
    from jdiff.main import main

import jax  # noqa: E402

from tests.machine_speed import Slowness  # noqa: E402

REPOSITORY = Path(__file__).parents[1]


def compilation_cache() -> Path:
    """Compiled programs outlive a checkout: in the home, or beside the tests where the home cannot be written to."""
    if wanted := os.environ.get("JDIFF_TEST_CACHE"):
        return Path(wanted).absolute()
    folder = Path("~/.cache/jdiff/tests/xla").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
    except OSError:
        return REPOSITORY / ".pytest_cache" / "xla"
    return folder


CACHE = compilation_cache()
os.environ.setdefault("HF_HOME", str(CACHE / "huggingface"))  # read when its libraries are first imported
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A network so small that it compiles and trains in seconds.
TINY = (
    "--config.network.channels=8",
    "--config.network.channel_mults=(1,)",
    "--config.network.blocks_per_level=1",
    "--config.network.attention_levels=()",
    "--config.train.batch_size=16",
    "--config.train.holdout_images=32",
    "--config.train.sample_every=0",
    "--config.train.trajectory_every=0",
    "--config.sample.num_images=10",
    "--config.sample.steps=4",
    "--config.log.every=5",
    f"--config.machine.compilation_cache={CACHE}",
)
# A network that compiles in a third of that one's time, for what does not depend on the network.
SMALL_DIT = {
    "network.name": "dit",
    "network.width": 32,
    "network.depth": 1,
    "network.attention_heads": 2,
    "network.patch_size": 2,
    "train.learning_rate": 1e-2,
}
TINY_DIT = (*TINY, *(f"--config.{name}={value}" for name, value in SMALL_DIT.items()))


@dataclass
class Result:
    status: int
    out: str
    err: str
    seconds: float


def start_command(
    *arguments: str, cwd: Path, compile_well: bool = False, module: str = "jdiff.main", **environment: str
) -> subprocess.Popen:
    flags = GIVEN_FLAGS if compile_well else os.environ["XLA_FLAGS"]
    environment["XLA_FLAGS"] = f"{flags} {environment.get('XLA_FLAGS', '')}".strip()
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0" if compile_well else "1"
    environment["PYTHONUTF8"] = "1"  # what it says is read here, whatever the locale
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}, encoding="utf-8", **pipes)


def run_command(*arguments: str, cwd: Path, timeout: float = 600, **environment: str) -> Result:
    """`python -m jdiff.main ...` in a process of its own, as a user runs it: seconds to begin, so for what only a
    process shows. All else takes `run_here`.
    """
    began = time.monotonic()
    process = start_command(*arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Result(process.returncode, out, err, time.monotonic() - began)


def run_here(*arguments: str, cwd: Path) -> Result:
    """The command within this process, compiled fast."""
    began, fast = time.monotonic(), jax.config.read("jax_disable_most_optimizations")
    out, err = io.StringIO(), io.StringIO()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch("jdiff.main.prepare_jax"),  # JAX runs already
            warnings.catch_warnings(),
        ):
            warnings.showwarning = lambda message, *_: print(f"jdiff: {message}", file=err)
            status = main(arguments)
    finally:
        jax.config.update("jax_disable_most_optimizations", fast)
    return Result(status, out.getvalue(), err.getvalue(), time.monotonic() - began)


def refusal(*arguments: str, cwd: Path) -> str:
    """The one line that the command, run here, ends in."""
    result = run_here(*arguments, cwd=cwd)
    assert result.status == 1, result.out
    assert result.err.startswith("jdiff: ")
    assert result.err.count("\n") == 1, result.err
    return result.err


# Files that take more than a minute begin first, so that the workers of pytest-xdist end together.
LONG = (
    "test_doctor",
    *("test_segmentation", "test_samplers", "test_latents", "test_model", "test_command", "test_evaluate"),
    *("test_reconstruct", "test_resume", "test_going_on", "test_data_modes", "test_devices", "test_errors"),
    *("test_processes", "test_shipped_configs", "test_blocks", "test_tune", "test_flow_map_task", "test_posthoc_ema"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Seconds by file, for .ci/run."""
    if file := os.environ.get("JDIFF_TEST_SECONDS"):
        seconds: Counter[str] = Counter()
        for reports in terminalreporter.stats.values():
            for report in reports:
                if isinstance(report, pytest.TestReport):
                    seconds[report.nodeid.partition("::")[0]] += report.duration
        with open(file, "a", encoding="utf-8") as lines:
            lines.writelines(f"{spent:6.0f} s  {name}\n" for name, spent in seconds.items())


@pytest.fixture(autouse=True)
def compile_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test computes for long, its programs are optimized."""
    well = any(name in request.keywords for name in ("compile_well", "slow", "alone"))
    jax.config.update("jax_disable_most_optimizations", not well)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def config(name: str) -> str:
    return f"--config={REPOSITORY / 'configs' / name}.py"


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images (see README); tests that want them are skipped where they are not."""
    folder = Path(os.environ.get("JDIFF_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder} (set JDIFF_TEST_DATA)")
    return folder.absolute()


@dataclass
class Run:
    workdir: Path
    result: Result
    slowness: float = 1.0  # of the machine meanwhile, where it was measured


def fingerprint() -> str:
    """Of what decides to what the main job comes: the code and the libraries."""
    digest = hashlib.sha256(sys.version.encode())
    for library in sorted((found.name, found.version) for found in importlib.metadata.distributions()):
        digest.update(repr(library).encode())
    for file in sorted(file for folder in ("configs", "jdiff") for file in (REPOSITORY / folder).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def new_digits_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The README's main job, run to its end in a fresh folder with an empty compilation cache; pytest's cache keeps it
    for `digits_run`.
    """
    folder = tmp_path_factory.mktemp("digits")
    cache = f"--config.machine.compilation_cache={folder / 'xla'}"
    with Slowness() as slow:
        result = run_command(config("digits"), cache, cwd=folder, compile_well=True)
    assert result.status == 0, result.err
    (folder / "result.json").write_text(json.dumps(asdict(result)), "utf-8")
    (folder / "fingerprint").write_text(fingerprint())
    kept = request.config.cache.mkdir("digits") / "run"
    whole = kept.with_name(f"run-{os.getpid()}")
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("xla"))
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(OSError):  # another process was quicker
        whole.rename(kept)
    return Run(folder / "runs" / "digits", result, slow.factor)


@pytest.fixture(scope="session")
def digits_run(request: pytest.FixtureRequest) -> Run:
    """The main job's run: the one that was trained last, if it was by this code."""
    kept = request.config.cache.mkdir("digits") / "run"
    with contextlib.suppress(OSError):
        if (kept / "fingerprint").read_text() == fingerprint():
            return Run(kept / "runs" / "digits", Result(**json.loads((kept / "result.json").read_text("utf-8"))))
    return request.getfixturevalue("new_digits_run")


def trained_for_ten_steps(folder: Path, *settings: str) -> Run:
    """A model of digits."""
    result = run_here(config("digits"), "--config.train.steps=10", *settings, "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return Run(folder / "run", result)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny model of digits, trained for ten steps."""
    return trained_for_ten_steps(tmp_path_factory.mktemp("tiny"), *TINY)


@pytest.fixture(scope="session")
def dit_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As `tiny_run`, for tests that ask nothing of the network."""
    return trained_for_ten_steps(tmp_path_factory.mktemp("tiny_dit"), *TINY_DIT)
