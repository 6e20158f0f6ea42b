"""How soon it starts, and what it leaves alone until that is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

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
