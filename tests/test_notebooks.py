"""The notebooks: kept as text, with a twin for Colab that holds no outputs; each runs from top to bottom."""

import os
import shutil

import pytest

from tests.conftest import REPOSITORY

jupytext = pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.py"))
TRAINS_NOTHING = ("02_forward_process",)


def test_there_are_notebooks():
    assert [file.stem[:2] for file in NOTEBOOKS] == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]


@pytest.mark.parametrize("text", NOTEBOOKS, ids=lambda file: file.stem)
def test_its_twin_is_the_same_without_outputs(text):
    """Written by: jupytext --sync notebooks/*.py"""
    written, twin = jupytext.read(text), jupytext.read(text.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in twin.cells] == [
        (cell.cell_type, cell.source) for cell in written.cells
    ]
    for cell in twin.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(file, marks=() if file.stem in TRAINS_NOTHING else pytest.mark.slow, id=file.stem)
        for file in NOTEBOOKS
    ],
)
def test_it_runs_from_top_to_bottom(text, tmp_path, monkeypatch):
    """With JDIFF_SMALL=1, in an empty folder."""
    monkeypatch.setenv("JDIFF_SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    shutil.copy(text, tmp_path)
    notebook = jupytext.read(tmp_path / text.name)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert all(cell.get("execution_count") for cell in notebook.cells if cell.cell_type == "code" and cell.source)
