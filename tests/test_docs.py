"""The README is short, and the documentation is built without a warning and holds what follows from the code."""

import html
import re
import shlex
import subprocess
import sys

import pytest

import jdiff
import jdiff.config
from jdiff.from_config.sampling import SAMPLERS
from jdiff.main import MODES
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text("utf-8")
PAGES = sorted(file for file in (REPOSITORY / "docs").rglob("*.md") if not {"generated", "_build"} & set(file.parts))


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 10
    for link in links:
        assert link.startswith("https://") or (REPOSITORY / link).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_keys_and_modes_that_a_page_names_exist(page):
    """`group.key` in backticks, --config.group.key in commands."""
    text, settings = page.read_text("utf-8"), jdiff.config.settings()
    groups = {name.rpartition(".")[0] for name in settings if "." in name}
    settings = {*settings, *(f"model.{name}" for name in dir(jdiff.Model))}  # of a model in a notebook
    for name in re.findall(r"--config\.([\w.]+)=", text):
        assert name in {*settings, "group.key"}, name
    for name in re.findall(r"`((?:\w+\.)+\w+)(?:=[^`]*)?`", text):
        if name.rpartition(".")[0] in groups and not (REPOSITORY / "jdiff" / f"{name.replace('.', '/')}.py").is_file():
            assert name in settings, name
    for mode in re.findall(r"--mode=(\w+)", text):
        assert mode in MODES or mode == "MODE", mode


COMMANDS = [
    pytest.param(command, id=f"{page.stem}: {command[:60]}")
    for page in [*PAGES, REPOSITORY / "README.md"]
    for command in re.findall(r"(python -m jdiff\.main --[^\n`|#]*)", page.read_text("utf-8"))
    if "..." not in command and "[--" not in command
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_keys_take_their_values(command):
    """Of a config that ships; of a run, whose config is not at hand, of digits."""
    arguments = [one for one in shlex.split(command)[3:] if not one.startswith("--config.") or "COUNT" not in one]
    names = [one.partition("=")[2] for one in arguments if one.startswith("--config=")]
    assert all(one.startswith(("--config", "--mode", "--workdir", "--out")) for one in arguments), arguments
    overrides = [one for one in arguments if one.startswith("--config.")]
    if names == ["FILE"] or names == ["CONFIG"]:
        return
    config = jdiff.config.load(names[0] if names else "digits")
    single, _ = jdiff.config.several(config, overrides)
    jdiff.config.check(jdiff.config.override(config, single))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for library in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(library)
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", REPOSITORY / "docs", folder],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


def words(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


def test_the_reference_holds_every_key_sampler_and_mode(site):
    keys, samplers, modes = (words(site / "generated" / f"{name}.html") for name in ("keys", "samplers", "modes"))
    for name, setting in jdiff.config.settings().items():
        assert name in keys
        assert " ".join(setting.meaning.split()[:3]) in " ".join(keys.split())
    assert all(name in samplers for name in SAMPLERS)
    assert "x_hat + (s' - s_hat) d" in samplers  # Heun's formula, as its docstring has it
    assert all(mode.what in modes for mode in MODES.values())


def test_files_that_the_contributors_guide_names_are_there():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    for name in re.findall(r"`((?:\w+/)*\w+\.py)`", text):
        if "plain" not in name:  # the example's
            assert any((REPOSITORY / place / name).is_file() for place in ("", "jdiff")), name
