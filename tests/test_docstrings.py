"""The examples in docstrings say what comes out."""

import re
import subprocess
import sys

from tests.conftest import REPOSITORY

FAMILIES = ("diffusion/drivers", "diffusion/ladders", "diffusion/samplers/heun", "metrics/frechet", "model")


def test_examples_come_out():
    command = [sys.executable, "-m", "pytest", "--doctest-modules", "jdiff", "-v", "--no-header"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    passed = re.findall(r"^jdiff/(\S+)\.py::\S+ PASSED", done.stdout, re.MULTILINE)
    assert len(passed) > 12
    assert set(FAMILIES) <= set(passed)
