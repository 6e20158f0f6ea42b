"""How fast data come: images/s through sources, views and batches, on the host alone; and what the train step eats.

    python -m benchmarks.data [--data=PATH] [--json FILE]

PATH: the folder of test data (default: JDIFF_TEST_DATA, or ../shared/data), with `tfds/fashion_mnist` and
`isic2018_256`. Each row packs or reads real images, warms up, then takes the median of five rounds of batches through
the whole pipeline (shuffled, viewed, stacked), by two threads. A folder of large photos follows, from its first start
to its second epoch, and one of many files. The last rows are the train steps of the configs that these data are for:
loss, gradient, Adam and EMA on one batch that is there already.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image

import jdiff.config
from jdiff import from_config
from jdiff.common.host import keep_freed_memory, use_all_cores
from jdiff.conditions.image import Image
from jdiff.conditions.label import Label
from jdiff.data.augment import NonLeaky, Turn
from jdiff.data.pipeline import train_batches
from jdiff.data.resize import Resize
from jdiff.data.sources import Source
from jdiff.data.sources.cached import Cached
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.packed import Packed, pack
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.prepared import prepared
from jdiff.data.sources.tfds import Tfds
from jdiff.data.views import View
from jdiff.modes import train
from jdiff.resolve import resolve
from jdiff.training import sharding
from jdiff.weights.start import begin

BATCH, ROUNDS, SECONDS = 128, 5, 2.0


def rate(batches: Iterator[Any], batch_size: int) -> float:
    """Images/s: the median of ROUNDS rounds of SECONDS each."""
    for _ in range(8):
        next(batches)
    found = []
    for _ in range(ROUNDS):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            next(batches)
            count += batch_size
        found.append(count / (time.perf_counter() - began))
    return statistics.median(found)


def images(source: Source, *, side: int, flip: bool, augment: float = 0.0) -> float:
    view = View(
        picture=source.pictures["image"],
        resize=Resize("centre", side, side),
        turn=Turn(horizontal=flip),
        augment=NonLeaky(augment) if augment else None,
        conditions=(Label(class_names=source.class_names),) if source.class_names else (),
    )
    return rate(train_batches(source, view, batch_size=BATCH, seed=0), BATCH)


def pairs(source: Source) -> float:
    """ISIC: the mask is modelled, the photo conditions, both at 128."""
    mask, photo = source.pictures["mask"], source.pictures["image"]
    view = View(
        target="mask",
        picture=mask,
        resize=Resize("centre", 128, 128, masks=frozenset({"mask"})),
        turn=Turn(horizontal=True, vertical=True),
        conditions=(Image(of="image", picture=photo, sides=(128, 128)),),
    )
    return rate(train_batches(source, view, batch_size=32, seed=0), 32)


def write_photos(data: Path, folder: Path, count: int, side: int) -> None:
    """JPEG files of `side` x `side`: parts of real photos, enlarged, with a sensor's noise."""
    photos = sorted((data / "isic2018_256" / "train" / "images").glob("*"))
    rng = np.random.default_rng(0)
    for i in range(count):
        with PIL.Image.open(photos[i % len(photos)]) as photo:
            large = np.asarray(photo.convert("RGB").resize((side, side), PIL.Image.Resampling.BICUBIC), np.float32)
        noisy = (large + rng.normal(0, 4, large.shape)).clip(0, 255).astype(np.uint8)
        PIL.Image.fromarray(noisy).save(folder / f"{i:05d}.jpg", quality=90)


def first_epoch(folder: Path, *, near: int) -> float:
    """Images/s of an epoch of large photos at 64x64 from their files."""
    source = Folder(str(folder), "train", holdout=0.0, near=near)
    view = View(picture=replace(source.pictures["image"], shape=(None, None, 3)), resize=Resize("centre", 64, 64))
    began, count = time.perf_counter(), len(source) // BATCH * BATCH
    batches = train_batches(prepared(source, view), view, batch_size=BATCH, seed=0)
    for _ in range(count // BATCH):
        next(batches)
    return count / (time.perf_counter() - began)


def second_epoch(folder: Path) -> float:
    """Images/s once they are in memory."""
    source = Folder(str(folder), "train", holdout=0.0, near=64)
    view = View(picture=replace(source.pictures["image"], shape=(None, None, 3)), resize=Resize("centre", 64, 64))
    memory = Cached(prepared(source, view), 2**30)
    memory.__getitems__(range(len(memory)))
    return rate(train_batches(memory, view, batch_size=BATCH, seed=0), BATCH)


def start(folder: Path, near: int = 64) -> float:
    """Files/s of finding out what is in a folder."""
    began = time.perf_counter()
    source = Folder(str(folder), "train", holdout=0.0, near=near)
    return len(source) / (time.perf_counter() - began)


def packed_over_trained(folder: Path, out: Path) -> float:
    """The bytes of packed photos over those of what is trained on."""
    source = Folder(str(folder), "train", holdout=0.0, near=64)
    view = View(picture=replace(source.pictures["image"], shape=(None, None, 3)), resize=Resize("centre", 64, 64))
    pack({"train": prepared(source, view)}, out)
    return sum(file.stat().st_size for file in out.iterdir()) / (len(source) * 64 * 64 * 3)


def eaten(name: str, batch_size: int, **data: Any) -> float:
    """Images/s of the train step of configs/<name>.py, in batches of so many."""
    config = jdiff.config.load(f"configs/{name}.py")
    config.data.update(data)
    config.train.batch_size = batch_size
    source, _ = from_config.sources(config)
    config = resolve(config, source)
    task, mesh = from_config.task(config), sharding.make_mesh()
    state = begin(config, task, mesh, None, 0)
    step = train.make_step(config, task, state)
    batch = sharding.put_batch(mesh, next(train.open_batches(config, source, 0)))
    taken = []
    for _ in range(4):  # the first compiles
        began = time.perf_counter()
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        taken.append(time.perf_counter() - began)
    return batch_size / statistics.median(taken[1:])


def measure(data: Path) -> dict[str, float]:
    found: dict[str, float] = {}

    def row(name: str, run: Callable[[], float]) -> None:
        found[name] = run()
        digits = 2 if found[name] < 10 else 0
        print(f"| {name} | {found[name]:,.{digits}f} |", flush=True)

    print("| what | images/s, pairs/s or files/s |\n| --- | --- |")
    fashion = Tfds("fashion_mnist", "train", str(data / "tfds"))
    row("Fashion-MNIST, TFDS", lambda: images(fashion, side=28, flip=False))
    with tempfile.TemporaryDirectory() as folder:
        pack({"train": fashion}, Path(folder) / "fashion")
        packed = Packed(str(Path(folder) / "fashion"), "train")
        row("Fashion-MNIST, array_record", lambda: images(packed, side=28, flip=False))
        row("array_record, flipped at random", lambda: images(packed, side=28, flip=True))
        row("array_record, resized to 32", lambda: images(packed, side=32, flip=False))
        memory = Cached(packed, 2**30)
        memory.__getitems__(range(len(memory)))
        row("Fashion-MNIST, in memory", lambda: images(memory, side=28, flip=False))
        row("in memory, flipped at random", lambda: images(memory, side=28, flip=True))
        row("in memory, EDM's augmentation, 0.12", lambda: images(memory, side=28, flip=False, augment=0.12))
        isic = Pairs(str(data / "isic2018_256"), "train")
        row("ISIC pairs, JPEG and PNG, 256 to 128", lambda: pairs(isic))
        pack({"train": isic}, Path(folder) / "isic")
        row("ISIC pairs, array_record, 256 to 128", lambda: pairs(Packed(str(Path(folder) / "isic"), "train")))
        photos, many = Path(folder) / "photos", Path(folder) / "many"
        photos.mkdir()
        write_photos(data, photos, 1000, 1024)
        row("1,000 JPEG of 1024x1024, first start", lambda: start(photos))
        row("second start", lambda: start(photos))
        row("first epoch at 64x64, decoded whole", lambda: first_epoch(photos, near=0))
        row("first epoch at 64x64, decoded near it", lambda: first_epoch(photos, near=64))
        row("second epoch, in memory", lambda: second_epoch(photos))
        row("packed, bytes over those trained on", lambda: packed_over_trained(photos, Path(folder) / "packed"))
        many.mkdir()
        write_photos(data, many, 20_000, 32)
        row("20,000 small JPEG, first start", lambda: start(many))
        row("second start of these", lambda: start(many))
    tfds = str(data / "tfds")
    row("train step, fashion_mnist.py, batch 32", lambda: eaten("fashion_mnist", 32, dir=tfds))
    row("train step, digits.py, batch 128", lambda: eaten("digits", 128))
    row("train step, isic2018.py, batch 4", lambda: eaten("isic2018", 4, dir=str(data / "isic2018_256")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = os.environ.get("JDIFF_TEST_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(here), help=f"the folder of test data ({here})")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    use_all_cores(4)
    keep_freed_memory()
    os.environ["JDIFF_CACHE"] = tempfile.mkdtemp()  # a first start is a first one
    found = measure(options.data)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
