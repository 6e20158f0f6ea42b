"""What tests share: shapes checked at run time, the command as a user runs it, one trained digits model."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from jaxtyping import install_import_hook

# An int passes where a float is asked for, as everywhere in Python.
with install_import_hook("jdiff", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"):
    import jdiff.from_config
    import jdiff.modes.train  # noqa: F401
    from jdiff.main import main

import jax

REPOSITORY = Path(__file__).parents[1]
CACHE = Path(os.environ.get("JDIFF_TEST_CACHE", REPOSITORY / ".pytest_cache" / "xla"))
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# A network so small that it compiles and trains in seconds.
TINY = (
    "--config.network.channels=8",
    "--config.network.channel_mults=(1,)",
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


@dataclass
class Result:
    status: int
    out: str
    err: str
    seconds: float


FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def start_command(*arguments: str, cwd: Path, xla: str = FAST_COMPILE, **environment: str) -> subprocess.Popen:
    environment["XLA_FLAGS"] = f"{xla} {environment.get('XLA_FLAGS', '')}".strip()
    command = [sys.executable, "-m", "jdiff.main", *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env={**os.environ, **environment}, text=True, **pipes)


def run_command(*arguments: str, cwd: Path, timeout: float = 600, **environment: str) -> Result:
    """`python -m jdiff.main ...` in a process of its own, as a user runs it."""
    began = time.monotonic()
    process = start_command(*arguments, cwd=cwd, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Result(process.returncode, out, err, time.monotonic() - began)


def refusal(*arguments: str, cwd: Path) -> str:
    """The one line that the command ends in, run within this process: a new one takes seconds to begin."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("jdiff.main.prepare_jax"),  # JAX runs already
    ):
        status = main(arguments)
    assert status == 1, out.getvalue()
    assert err.getvalue().startswith("jdiff: ")
    assert err.getvalue().count("\n") == 1, err.getvalue()
    return err.getvalue()


@pytest.fixture
def compile_fast(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tiny programs: compiling them well would take longer than running them."""
    jax.config.update("jax_disable_most_optimizations", "slow" not in request.keywords)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The README's main job, run to its end in a fresh folder with an empty compilation cache."""
    folder = tmp_path_factory.mktemp("digits")
    cache = f"--config.machine.compilation_cache={folder / 'xla'}"
    result = run_command(config("digits"), cache, cwd=folder, xla="")
    assert result.status == 0, result.err
    return Run(folder / "runs" / "digits", result)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A tiny model of digits, trained for ten steps."""
    folder = tmp_path_factory.mktemp("tiny")
    result = run_command(config("digits"), "--config.train.steps=10", *TINY, "--workdir=run", cwd=folder)
    assert result.status == 0, result.err
    return Run(folder / "run", result)
