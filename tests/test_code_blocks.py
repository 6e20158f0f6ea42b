"""Every command and code block of the README and of the documentation is run as it stands, with small networks on
little data, in one folder:

    python -m pytest -m slow tests/test_code_blocks.py

NOT_RUN lists with reasons what is not run.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jdiff
from tests import test_docs
from tests.conftest import CACHE, REPOSITORY, run_here

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *test_docs.PAGES]
NOT_RUN = {
    "python3 -m venv": "an installation; .ci/run does the README's",
    ". .venv/bin/activate": "an installation",
    "pip install": "an installation",
    "python -m pytest": "these tests; .ci/run runs them",
    "ruff check": "lint; .ci/run runs it",
    ".ci/run": "what runs these tests",
    "python -m sphinx": "tests/test_docs.py builds the site",
    "--mode=serve": "it ends when it is told to; tests/test_serve.py draws from it in a browser",
    "srun ": "another machine's program; tests/test_processes.py starts what it starts",
    "mpirun ": "another machine's program; tests/test_processes.py starts what it starts",
    "ssh ": "another machine; tests/test_processes.py starts what it starts",
    "machine.distributed=true": "several processes; tests/test_processes.py",
    "eval.weights=": "weights that are not shipped; tests/test_features_inception.py and tests/test_evaluate_peers.py",
    "--config=lidc": "data that people must ask for; tests/test_shipped_configs.py reads made-up ones",
    "--config=landscape": "data that people must fetch; tests/test_shipped_configs.py reads made-up ones",
}
# What a page leaves to its reader.
GIVEN = {
    "CONFIG": "folder",
    "NAME": "mine",
    "DIR": "drawn_here",
    "COUNT": "3",
    "PHOTOS": "photos",
    "PICTURES": "sketches",
}
PATHS = {"emoji": "captioned", "isic2018": "pairs"}  # by config; photos for others
# How long and how large a training is, which here is decided below.
LENGTH = re.compile(r"--config\.(train\.(epochs|steps|images|batch_size|accumulate)|network\.\w+)=")
SMALL = (
    *("--config.train.holdout_images=8", "--config.train.batch_size=8", "--config.train.steps=2"),
    *("--config.train.sample_every=0", "--config.log.tensorboard=false", "--config.sample.num_images=2"),
    *("--config.sample.steps=2", f"--config.machine.compilation_cache={CACHE}"),
)
NETWORK = (  # its middle, where it attends, lies at a quarter of the sides
    *("--config.network.channels=8", "--config.network.channel_mults=(1,1,1)"),
    *("--config.network.blocks_per_level=1", "--config.network.attention_levels=()"),
)
# A run that a block takes for granted: the command that trains it.
RUNS = {
    "digits": "--config=digits",
    "weak": "--config=digits --workdir=runs/weak",
    "cifar10": "--config=folder --config.data.dir=photos --workdir=runs/cifar10 --config.data.image_size=16",
    "mine": "--config=folder --config.data.dir=photos --workdir=runs/mine --config.data.image_size=16",
    "emoji": "--config=emoji --config.data.dir=captioned --config.data.image_size=16",
    "fashion_mnist": "--config=digits --workdir=runs/fashion_mnist",
    "digits_ect": "--config=digits_ect --config.train.initial=runs/digits",
    "digits_vae": "--config=digits_vae",
    "digits_ldm": "--config=digits_ldm --config.space.autoencoder=runs/digits_vae",
    "isic2018": "--config=isic2018 --config.data.dir=pairs --config.data.image_size=16",
    "sketches": "--config=digits --workdir=runs/sketches --config.model.conditions=image",
}
FEW = {
    "sample": ("--config.sample.num_images=3", "--config.sample.batch_size=2"),
    "evaluate": ("--config.eval.num_images=12", "--config.sample.steps=2", "--config.eval.features=pixels"),
    "tune": (
        *("--config.tune.images=24", "--config.tune.finalists=1", "--config.tune.samplers=('dpmpp_2m','ddim')"),
        *("--config.eval.features=pixels", "--config.sample.batch_size=24"),
    ),
}


def blocks(language):
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.S | re.M):
            yield page, block


def reason(command):
    return next((why for what, why in NOT_RUN.items() if what in command), None)


def commands():
    """(page, command): the lines of blocks and, within texts, what calls jdiff; "..." is the line above it."""
    for page, block in blocks("bash"):
        before = ""
        for line in block.splitlines():
            command = line.partition(" #")[0].strip().removesuffix(" &")
            if " ... " in command:
                start, _, end = command.partition(" ... ")
                command = f"{before.partition(' --config.train.initial')[0]} {end}" if before else f"{start} {end}"
            before = command
            yield page, command
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.S | re.M)
        for command in re.findall(r"`((?:python -m jdiff\.main|jdiff) --[^`]*)`", text):
            if "MODE" not in command and "[--" not in command:
                yield page, command


COMMANDS = {command: page for page, command in reversed(list(commands())) if reason(command) is None}
PYTHON = list(blocks("python"))


def pictures(folder, count, size, channels=3):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        shape = (*size, channels) if channels > 1 else size
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{number:02}.png")


class House:
    """A folder with data and with the runs that were asked for so far."""

    def __init__(self, folder):
        self.folder = folder
        pictures(folder / "photos", 24, (40, 48))
        pictures(folder / "sketches", 3, (8, 8), channels=1)
        pictures(folder / "captioned", 16, (16, 16))
        names = sorted(file.name for file in (folder / "captioned").iterdir())
        lines = [json.dumps({"file_name": name, "text": "a red heart"}) for name in names]
        (folder / "captioned" / "metadata.jsonl").write_text("\n".join(lines))
        pictures(folder / "pairs" / "images", 24, (20, 24))
        (folder / "pairs" / "masks").mkdir()
        for number in range(24):
            mask = np.zeros((20, 24), np.uint8)
            mask[4 : 8 + number // 4, 6:15] = 255
            Image.fromarray(mask).save(folder / "pairs" / "masks" / f"{number:02}.png")

    def run(self, command):
        """A command of a page, with what it leaves to its reader and with few steps."""
        arguments = shlex.split(command)
        arguments = arguments[3:] if arguments[0] == "python" else arguments[1:]
        names = [one.partition("=")[2] for one in arguments if one.startswith("--config=")]
        config = Path(names[0]).stem if names else ""
        for name, value in {**GIVEN, "PATH": PATHS.get(config, "photos")}.items():
            arguments = [re.sub(rf"\b{name}\b", value, one) for one in arguments]
        mode = next((one.partition("=")[2] for one in arguments if one.startswith("--mode=")), "train")
        for one in arguments:
            for run in re.findall(r"=runs/(\w+)$", one):
                if mode != "train" or not one.startswith("--workdir="):
                    self.need(run)
        if mode == "train":
            arguments = [one for one in arguments if not LENGTH.match(one)]
            arguments += self.small(config, arguments)
            workdir = next((one.partition("=")[2] for one in arguments if "--workdir=" in one), f"runs/{config}")
            shutil.rmtree(self.folder / workdir, ignore_errors=True)  # of another block
        if "sample.preset=8" in command and not (self.folder / "runs" / "digits" / "tune").exists():
            self.run(next(one for one in COMMANDS if "--mode=tune" in one))
        result = run_here(*arguments, *FEW.get(mode, ()), cwd=self.folder)
        assert result.status == 0, f"{' '.join(arguments)}\n{result.err}"
        assert result.out.strip()

    def small(self, config, arguments):
        if config in ("digits_vae", "digits_vqvae"):
            yield from ("--config.autoencoder.channels=8", "--config.autoencoder.channel_mults=(1,2)")
        elif not any("train.initial=" in one for one in arguments):
            yield from NETWORK
        if config == "isic2018":
            yield "--config.data.suffixes=('','')"
        if config in ("mnist", "fashion_mnist"):
            yield f"--config.data.dir={self.tfds}"
        if config == "emoji":
            yield "--config.condition.text.vocabulary=260"
        yield from SMALL

    def need(self, run):
        if not (self.folder / "runs" / run).exists():
            self.run(f"jdiff {RUNS[run]}")


@pytest.fixture(scope="module")
def house(tmp_path_factory, test_data):
    house = House(tmp_path_factory.mktemp("house"))
    house.tfds = test_data / "tfds"
    return house


def test_pages_have_blocks_of_all_kinds():
    assert len(COMMANDS) > 30
    assert len(PYTHON) > 6
    written = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert all(what in written for what in NOT_RUN), "NOT_RUN names what no page has"
    named = re.findall(r"tests/\w+\.py", " ".join(NOT_RUN.values()))
    assert all((REPOSITORY / file).is_file() for file in named)
    for page in PAGES:
        kinds = set(re.findall(r"^ *```(\S+)$", page.read_text("utf-8"), re.M))
        assert kinds <= {"bash", "python", "bibtex", "{toctree}", "{eval-rst}"}, f"{page.name}: {kinds}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [pytest.param(one, id=f"{page.stem}: {one[:70]}") for one, page in COMMANDS.items()]
)
def test_a_command_runs(command, house):
    house.run(command)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(page, one, id=f"{page.stem}: {one[:40]}") for page, one in PYTHON]
)
def test_a_block_of_python_runs(page, block, house, monkeypatch):
    monkeypatch.chdir(house.folder)
    for run in re.findall(r'"runs/(\w+)"', block):
        if run in RUNS:
            house.need(run)
    house.need("digits")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    names = {"jdiff": jdiff, "images": images, "y": [3, 8], "masks": images[..., 0] > 128}
    if page.stem == "conditions":
        pytest.skip("a model of four conditions; tests/test_conditioning.py draws from one")
    if "PIPELINE" in block:
        from tests.pipelines import stable_diffusion  # which wants torch

        block = block.replace("PIPELINE", str(stable_diffusion(house.folder / "pipeline")))
    if "jdiff.load" not in block:
        names["model"] = jdiff.load("runs/digits")
    block = block.replace("1_000_000", "6").replace("batch_size=500", "batch_size=3")
    exec(compile(block, page.name, "exec"), names)
