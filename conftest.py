"""What the examples in docstrings take for granted: `python -m pytest --doctest-modules jdiff` runs them."""

from pathlib import Path
from typing import Any

import pytest

TRAINING = (
    *("--config=digits", "--config.train.steps=2", "--config.train.sample_every=0", "--config.log.tensorboard=false"),
    *("--config.network.name=dit", "--config.network.width=32", "--config.network.depth=1"),
    *("--config.network.attention_heads=2", "--config.network.patch_size=2"),
)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of digits, hardly trained."""
    import jdiff  # here: tests/conftest.py is to prepare JAX first
    from jdiff.main import main

    workdir: Path = tmp_path_factory.mktemp("examples") / "digits"
    assert main([*TRAINING, f"--workdir={workdir}"]) == 0
    return jdiff.load(workdir)


@pytest.fixture(autouse=True)
def names_in_examples(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    example = getattr(request.node, "dtest", None)
    if example and any("model." in line.source for line in example.examples):
        doctest_namespace["model"] = request.getfixturevalue("model")
