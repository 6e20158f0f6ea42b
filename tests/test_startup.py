"""How soon it starts, and what it leaves alone until that is needed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest

from jdiff.common.host import keep_freed_memory

# Libraries that read data, judge them or write logs: a model that samples needs none.
OF_DATA = {
    *("grain", "sklearn", "pandas", "pyarrow", "tensorflow_datasets", "datasets", "array_record", "torch"),
    *("transformers", "tokenizers", "tensorflow", "jinja2", "matplotlib", "clu", "tensorboardX", "skimage"),
}


def import_times(*command: str, cwd: Path) -> dict[str, float]:
    """Seconds of every module that `python -X importtime` tells of, with the modules that it imports."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=cwd, capture_output=True, text=True, check=True
    )
    lines = [line.removeprefix("import time:").split("|") for line in result.stderr.splitlines() if "|" in line]
    return {name.strip(): int(total) / 1e6 for _, total, name in lines if total.strip().isdigit()}


def test_a_model_loads_without_data_libraries_and_the_doctor(tiny_run):
    modules = import_times("-c", f"import jdiff; jdiff.load({str(tiny_run.workdir)!r})", cwd=tiny_run.workdir)
    assert "jdiff.model" in modules
    assert not OF_DATA & {name.split(".")[0] for name in modules}
    assert not [name for name in modules if name.startswith(("jdiff.doctor", "jdiff.modes"))]


def test_help_and_import_are_light(tmp_path):
    """Whatever the machine does besides: by the libraries that they leave alone."""
    heavy = OF_DATA | {"jax", "flax", "orbax", "optax", "ml_collections", "numpy"}
    for command in (("-c", "import jdiff"), ("-m", "jdiff.main", "--help")):
        assert not heavy & {name.split(".")[0] for name in import_times(*command, cwd=tmp_path)}, command


@pytest.mark.alone
@pytest.mark.parametrize(("command", "most"), [(("-c", "import jdiff"), 0.3), (("-m", "jdiff.main", "--help"), 0.5)])
def test_import_and_help_are_quick(command, most, tmp_path):
    assert min(max(import_times(*command, cwd=tmp_path).values()) for _ in range(3)) < most


@pytest.mark.parametrize(
    ("platforms", "plugin", "calls"), [("cpu", True, 3), ("cuda,cpu", False, 0), (None, True, 0), (None, False, 3)]
)
def test_freed_memory_is_kept_on_a_cpu_alone(monkeypatch, platforms, plugin, calls):
    """With the one arena that is left then, a compilation for a GPU did not end in 150 s (benchmarks/RESULTS.md)."""
    mallopt = mock.Mock()
    monkeypatch.setattr("jdiff.common.host.ctypes.CDLL", lambda name: mock.Mock(mallopt=mallopt))
    monkeypatch.setattr(type(jax.config), "jax_platforms", platforms)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: mock.Mock() if plugin and name == "jax_plugins" else None
    )
    keep_freed_memory()
    assert mallopt.call_count == calls


def test_freed_memory_is_kept_before_jax_starts(tmp_path):
    """Its threads would have arenas of their own otherwise, and their freed memory would be mapped anew each time."""
    code = """
import jax, jdiff.config, jdiff.main
from unittest import mock
still_possible = lambda: jax.config.update("jax_num_cpu_devices", 1)
with mock.patch("jdiff.common.host.keep_freed_memory", side_effect=still_possible) as called:
    jdiff.main.prepare_jax(jdiff.config.defaults())
assert called.called
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
