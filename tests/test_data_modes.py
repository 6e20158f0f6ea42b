"""Data as a user meets them: --mode=inspect and prepare, masks drawn from photos, samples of the data's own kind."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jdiff
from tests.conftest import TINY, config, refusal, run_here, start_command

SHORT = (*TINY, "--config.train.steps=2", "--config.checkpoint.every=2", "--config.model.sigma_data=0.6")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """24 photos of discs, 16x16, and their masks."""
    top = tmp_path_factory.mktemp("pairs")
    rows, columns = np.mgrid[:16, :16]
    for folder in ("images", "masks"):
        (top / folder).mkdir()
    for i in range(24):
        y, x, radius = np.random.default_rng(i).uniform([4, 4, 2], [12, 12, 5])
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        photo = np.random.default_rng(i).integers(0, 120, (16, 16, 3), np.uint8) + np.uint8(100) * inside[..., None]
        Image.fromarray(photo.astype(np.uint8)).save(top / "images" / f"{i}.png")
        Image.fromarray((255 * inside).astype(np.uint8)).save(top / "masks" / f"{i}.png")
    return top


@pytest.mark.slow
def test_masks_are_drawn_from_photos(pairs, tmp_path):
    """Packed first, and trained from there: a mask's photo conditions it, and both are changed alike."""
    options = (
        config("folder"),
        "--config.data.name=pairs",
        f"--config.data.dir={pairs}",
        "--config.log.progress=false",
    )
    result = run_here("--mode=inspect", *options, "--config.data.image_size=16", "--workdir=look", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "23 train, 1 held-out" in result.out
    assert "<html" in (tmp_path / "look" / "inspect" / "report.html").read_text("utf-8")

    result = run_here("--mode=prepare", *options, "--out=packed", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "packed 23 train, 1 test images into packed" in result.out
    again = run_here("--mode=prepare", *options, "--out=packed", cwd=tmp_path)
    assert (again.status, again.err.count("\n")) == (1, 1)
    assert "packed exists already" in again.err

    task = ("--config.data.target=mask", "--config.model.conditions=('image',)", "--config.condition.image.of=image")
    task += ("--config.condition.image.view=as_is", "--config.data.image_size=16", "--config.data.augment=0.5")
    task += ("--config.data.quarter_turns=true", "--config.data.name=array_record", "--config.data.dir=packed")
    result = run_here(config("folder"), *task, *SHORT, "--workdir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "23 images 16x16x1, no classes, 1 held out; conditioned on image" in result.out
    model = jdiff.load(tmp_path / "run")
    photos = np.stack([np.asarray(Image.open(pairs / "images" / f"{i}.png")) for i in range(3)])
    masks = model.sample(cond_images=photos, steps=3)
    assert (masks.shape, masks.dtype) == ((3, 16, 16, 1), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "low", "high"), [("uint16", 0, 4095), ("float32", -1000.0, 3000.0)])
def test_samples_are_of_the_datas_kind(tmp_path, dtype, low, high):
    """12-bit and float scans of five channels: in, through training, and out again in their own values."""
    values = np.random.default_rng(0).uniform(low, high, (40, 8, 8, 5)).astype(dtype)
    np.save(tmp_path / "scans.npy", values)
    options = (config("folder"), "--config.data.name=arrays", "--config.data.dir=scans.npy", "--config.data.channels=0")
    options += (f"--config.data.low={low}", f"--config.data.high={high}", "--config.data.image_size=0")
    result = run_here(*options, *SHORT, "--workdir=run", cwd=tmp_path)
    assert result.status == 0, result.err
    model = jdiff.load(tmp_path / "run")
    images = model.sample(6, steps=4)
    assert (images.shape, images.dtype) == ((6, 8, 8, 5), np.dtype(dtype))
    assert low <= images.min() < images.max() <= high
    assert images.max() > 256  # not levels of 8 bits
    again = model.reconstruct(values[:2], sampler="ddim", steps=40)
    assert (again.shape, again.dtype) == ((2, 8, 8, 5), np.dtype(dtype))
    assert model.shown(images).dtype == np.uint8


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_have_no_jax(tmp_path):
    """Each would take 120 MB more, and might take a share of the accelerator. They import anew what the
    console script runs.
    """
    options = (config("digits"), *TINY, "--config.train.steps=100000", "--config.machine.workers=1", "--workdir=run")
    process = start_command(*options, "--config.log.progress=false", cwd=tmp_path, module="jdiff")
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [child for children in threads for child in children.read_text().split()]
    lines = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    workers = [child for child, line in lines.items() if "spawn_main" in line]
    loaded = [Path(f"/proc/{worker}/maps").read_text() for worker in workers]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert workers
    assert all("numpy" in maps and "jaxlib" not in maps for maps in loaded)
    assert "Traceback" not in err


@pytest.mark.slow
def test_data_that_fail_in_training_lose_nothing(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (i, 90, 6 * i)).save(images / f"{i:02}.png")
    options = (config("folder"), "--config.data.dir=images", "--config.data.image_size=8", *TINY, "--workdir=run")
    options += ("--config.train.steps=3000", "--config.checkpoint.every=100000", "--config.log.progress=false")
    options += ("--config.log.tensorboard=false", "--config.machine.cache=0.0")
    process = start_command(*options, cwd=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.01)
    (images / "07.png").rename(tmp_path / "07.png")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert "07.png could be read at the start and cannot now" in err
    step = int(err.split("; step ")[1].split()[0])
    assert step >= json.loads(metrics.read_text().splitlines()[-1])["step"]
    (tmp_path / "07.png").rename(images / "07.png")
    again = run_here(*options, f"--config.train.steps={step + 2}", cwd=tmp_path)
    assert again.status == 0, again.err
    assert f"steps {step:,} to {step + 2:,}" in again.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode=prepare"], "--mode=prepare needs --out=DIR"),
        (["--config.data.target=mask"], "data.target='mask': these data have image"),
        (["--config.data.name=arrays"], "data.dir"),
        (["--config.data.name=pairs", "--config.data.dir=."], "holds no folders 'images' and 'masks'"),
        (["--config.data.name=array_record", "--config.data.dir=."], "jdiff"),
        (["--config.data.name=hf:"], "lacks the name of a data set, as in hf:"),
        (["--config.data.resize=stretch"], "it is one of centre, adm, random_crop, pad, squash"),
        (["--config.data.augment=1.5"], "data.augment=1.5"),
        (["--config.model.conditions=('image',)", "--config.condition.image.of=sketch"], "condition.image.of='sketch'"),
        (["--config.model.conditions=('image',)", "--config.condition.image.view=sketch"], "condition.image.view"),
    ],
)
def test_wrong_data_are_told_in_one_line(arguments, said, tmp_path):
    assert said in refusal(config("digits"), *SHORT, *arguments, "--workdir=run", cwd=tmp_path)
