"""Sphinx's settings: python -m sphinx -W docs docs/_build"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import generate
from docstrings import as_rst

project, author, copyright = "jdiff", "the authors of jdiff", "2026, the authors of jdiff"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "sphinx_book_theme"
html_title = "jdiff"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
smartquotes = False  # quotes are part of values
# Notebooks are kept without outputs. JDIFF_DOCS_EXECUTE=1 runs all of them for the pages (JDIFF_SMALL=1: in few steps).
nb_execution_mode = "auto" if os.environ.get("JDIFF_DOCS_EXECUTE") else "off"
nb_execution_in_temp = True
nb_execution_timeout = 1800  # seconds a cell
nb_execution_raise_on_error = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}


def setup(app: object) -> None:
    """Write the pages that follow from the code and the notebooks, and read docstrings as they are written here."""
    generate.write(Path(__file__).parent / "generated")
    app.connect("autodoc-process-docstring", lambda app, what, name, obj, options, lines: as_rst(lines))  # type: ignore[attr-defined]
