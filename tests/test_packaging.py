"""What pip installs: the wheel's files, and the command in an environment of its own, beside whatever the user has."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile

import pytest

from jdiff.common.errors import DISTRIBUTION
from tests.conftest import FAST_COMPILE, REPOSITORY, TINY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
SHORT = (*TINY, "--config.train.steps=3", "--config.log.tensorboard=false", "--config.sample.num_images=2")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel, tmp_path_factory):
    """Of an environment into which the wheel alone is installed; its libraries are those of this one."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(program, *arguments, cwd):
    """What a program of the environment said; it must have ended well."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XLA_FLAGS": FAST_COMPILE, "PYTHONUTF8": "1"}
    result = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_holds_the_package_and_its_configs_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].removesuffix(".dist-info") for name in names} == {
        "jdiff",
        wheel.name[: -len("-py3-none-any.whl")],
    }
    held = {name.removeprefix("jdiff/configs/") for name in names if name.startswith("jdiff/configs/")}
    assert held == {file.name for file in (REPOSITORY / "configs").glob("*.py")}
    package = {
        str(file.relative_to(REPOSITORY)) for file in (REPOSITORY / "jdiff").rglob("*.*") if file.suffix != ".pyc"
    }
    assert package <= set(names)


def test_pip_is_never_asked_for_the_other_project_of_this_name():
    """`jdiff` on the package index is somebody else's."""
    assert PROJECT["name"] == DISTRIBUTION != "jdiff"
    files = [REPOSITORY / "README.md", *(REPOSITORY / "jdiff").rglob("*.py"), *(REPOSITORY / "configs").glob("*.py")]
    for file in files:
        assert not re.search(r"pip install[^\n]*[ \"']jdiff\b(?!-)", file.read_text("utf-8")), file


def test_extras_that_messages_name_exist():
    """`pip install "jdiff-diffusion[text]"` works beside the installed package, which pip takes for its own."""
    for file in (REPOSITORY / "jdiff").rglob("*.py"):
        for extra in re.findall(r"\{install\('(\w+)'\)\}", file.read_text("utf-8")):
            assert extra in PROJECT["optional-dependencies"], file


def users_own_configs(folder):
    """A package of the same name that is not for jdiff."""
    (folder / "configs").mkdir()
    for name in ("__init__", "base"):
        (folder / "configs" / f"{name}.py").write_text("raise RuntimeError('not for jdiff')\n")


@pytest.mark.slow
def test_the_console_script_trains_beside_a_package_configs_of_the_users_and_its_workers_read(bin_folder, tmp_path):
    users_own_configs(tmp_path)
    out = run(bin_folder / "jdiff", "--config=configs/digits.py", "--config.machine.workers=1", *SHORT, cwd=tmp_path)
    assert "1,500 images 8x8x1" in out
    assert "trained to step 3" in out
    assert (tmp_path / "runs" / "digits" / "config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ["digits", "configs/digits.py"])
@pytest.mark.parametrize("command", [("jdiff",), ("python", "-m", "jdiff"), ("python", "-m", "jdiff.main")])
def test_the_installed_command_trains(command, name, beside, bin_folder, tmp_path):
    if beside:
        users_own_configs(tmp_path)
    out = run(bin_folder / command[0], *command[1:], f"--config={name}", *SHORT, cwd=tmp_path)
    assert "trained to step 3" in out


LOAD = "import jdiff.config as c, sys; print([c.load(name).train.steps for name in sys.argv[1:]], c.__file__)"


@pytest.mark.parametrize("own_base", [False, True])
def test_configs_are_found_by_name_and_path_beside_the_users_own(bin_folder, tmp_path, own_base):
    """A config of the user's takes what lies beside it first."""
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(
        "from configs import base, digits\n\n\ndef get_config():\n    config = base.get_config()\n"
        "    config.train.steps += digits.get_config().train.steps\n    return config\n"
    )
    if own_base:
        (folder / "base.py").write_text(
            "from configs import digits\n\n\ndef get_config():\n    config = digits.get_config()\n"
            "    config.train.steps = 5\n    return config\n"
        )
        (folder / "digits.py").write_text((REPOSITORY / "configs" / "digits.py").read_text())
        (folder / "digits.py").write_text(
            "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
            "    return ConfigDict({'train': {'steps': 70}})\n"
        )
    names = ("digits", "configs/digits.py", "configs/mine.py", str(folder / "mine.py"))
    out = run(bin_folder / "python", "-c", LOAD, *names, cwd=tmp_path)
    assert out.startswith(str([1000, 70, 75, 75] if own_base else [1000, 1000, 1000, 1000]))
    assert f"{bin_folder.parent}" in out
