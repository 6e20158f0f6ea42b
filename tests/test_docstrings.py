"""The examples in docstrings say what comes out."""

import doctest
import importlib

import pytest

from tests.conftest import REPOSITORY

MODULES = sorted(
    ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    for file in (REPOSITORY / "jdiff").rglob("*.py")
    if ">>> " in file.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_its_examples_come_out(name):
    """As python -m pytest --doctest-modules jdiff runs them."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_families_have_examples():
    for family in ("jdiff.diffusion.ladders", "jdiff.diffusion.samplers", "jdiff.metrics"):
        assert any(name.startswith(family) for name in MODULES), family
