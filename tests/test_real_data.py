"""Real images: Fashion-MNIST, a part of CIFAR-10, and a folder of photographs."""

import json

import pytest
from PIL import Image

from tests.conftest import config, run_here


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


SHORT = (
    "--config.network.channels=16",
    "--config.network.channel_mults=(1,2)",
    "--config.network.blocks_per_level=1",
    "--config.network.attention_levels=()",
    "--config.train.batch_size=16",
    "--config.train.learning_rate=4e-3",
    "--config.train.warmup_images=160",
    "--config.train.holdout_images=32",
    "--config.log.every=5",
    "--config.log.pictures=false",
    "--config.log.tensorboard=false",
    "--config.sample.num_images=10",
    "--config.sample.steps=4",
    "--workdir=run",
)


@pytest.mark.slow  # its first step is traced by test_shipped_configs
def test_fashion_mnist_trains_and_resumes(test_data, tmp_path):
    """In their own size they take four times as long; CIFAR-10's are not scaled below."""
    arguments = [config("fashion_mnist"), *SHORT, f"--config.data.dir={test_data / 'tfds'}"]
    arguments += ["--config.data.image_size=14"]
    first = run_here(*arguments, "--config.train.steps=80", cwd=tmp_path)
    assert first.status == 0, first.err
    assert "tfds:fashion_mnist, 60,000 images 14x14x1, 10 classes, 10,000 held out" in first.out
    second = run_here(*arguments, "--config.train.steps=100", cwd=tmp_path)
    assert second.status == 0, second.err
    assert "steps 80 to 100" in second.out
    series = losses(tmp_path / "run")
    assert len(series) == 20
    assert sum(series[-5:]) < 0.7 * sum(series[:5])


@pytest.mark.slow  # its first step is traced by test_shipped_configs, its data read by test_dataset_configs
def test_cifar10_starts(test_data, tmp_path):
    arguments = [config("cifar10"), *SHORT, f"--config.data.dir={test_data / 'tfds'}"]
    result = run_here(*arguments, "--config.train.steps=10", cwd=tmp_path)
    assert result.status == 0, result.err
    assert "tfds:cifar10, 10,000 images 32x32x3, 10 classes, 2,000 held out" in result.out


@pytest.mark.slow
def test_a_folder_of_mixed_images_trains(test_data, tmp_path):
    """Photographs and emoji in many formats, modes and sizes, in two classes."""
    for name in ("lesion", "emoji"):
        (tmp_path / "images" / name).mkdir(parents=True)
    photos = sorted((test_data / "isic2018_256" / "val" / "images").glob("*.jpg"))[:40]
    for index, file in enumerate(photos):
        photo = Image.open(file).resize((60 + 7 * index, 200 - 3 * index))
        mode, ending = (("RGB", "jpg"), ("L", "png"), ("P", "png"), ("CMYK", "jpg"), ("RGBA", "webp"))[index % 5]
        photo.convert(mode).save(tmp_path / "images" / "lesion" / f"{index}.{ending}")
    for file in sorted((test_data / "emoji_72").rglob("*.png"))[:40]:
        (tmp_path / "images" / "emoji" / file.name).write_bytes(file.read_bytes())
    data = [f"--config.data.dir={tmp_path / 'images'}", "--config.data.image_size=32", "--config.train.steps=10"]
    result = run_here(config("folder"), *SHORT, *data, cwd=tmp_path)
    assert result.status == 0, result.err
    assert "folder, 76 images 32x32x3, 2 classes, 4 held out" in result.out
