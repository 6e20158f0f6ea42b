"""The same images from any kind of source give the same batches, bit for bit."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from jdiff.conditions.label import Label
from jdiff.data.augment import Turn
from jdiff.data.pipeline import train_batches
from jdiff.data.resize import Resize
from jdiff.data.sources.arrays import Arrays
from jdiff.data.sources.folder import Folder
from jdiff.data.sources.packed import Packed, pack
from jdiff.data.sources.pairs import Pairs
from jdiff.data.sources.tfds import Tfds
from jdiff.data.views import View

COUNT = 2000  # of the data set's test images


@pytest.fixture(scope="module")
def original(test_data):
    return Tfds("cifar10", "test", str(test_data / "tfds"))


@pytest.fixture(scope="module")
def forms(original, tmp_path_factory):
    """Kind -> a source of the same images in the same order; labels too, where that kind has any."""
    top = tmp_path_factory.mktemp("forms")
    records = original.__getitems__(range(COUNT))
    images = np.stack([record["image"] for record in records])
    labels = [record["label"] for record in records]

    for folder in ("folder/train", "pairs/train/images", "pairs/train/masks"):
        (top / folder).mkdir(parents=True)
    for i, image in enumerate(images):
        for folder in ("folder/train", "pairs/train/images"):
            Image.fromarray(image).save(top / folder / f"{i:05d}.png", compress_level=0)
        Image.fromarray(image[..., 0]).save(top / "pairs/train/masks" / f"{i:05d}.png", compress_level=0)
    rows = [{"file_name": f"{i:05d}.png", "kind": original.class_names[label]} for i, label in enumerate(labels)]
    (top / "folder" / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.savez(top / "train.npz", images=images, labels=np.array(labels), class_names=np.array(original.class_names))
    pack({"train": original}, top / "packed")

    members = sorted((top / "folder" / "train").iterdir())
    with zipfile.ZipFile(top / "x.zip", "w") as archive, tarfile.open(top / "x.tar", "w") as tar:
        for file in members:
            archive.write(file, file.name)
            tar.add(file, file.name)
    (top / "shards").mkdir()
    for k in range(4):
        with tarfile.open(top / "shards" / f"{k}.tar", "w") as tar:
            for i in range(k * COUNT // 4, (k + 1) * COUNT // 4):
                tar.add(top / "folder" / "train" / f"{i:05d}.png", f"{i:05d}.png")
                label = original.class_names[labels[i]].encode()
                info = tarfile.TarInfo(f"{i:05d}.cls")
                info.size = len(label)
                tar.addfile(info, io.BytesIO(label))

    made = {
        "tfds": original,
        "folder": Folder(str(top / "folder"), "train", labels="kind", holdout=0.0),
        "zip": Folder(str(top / "x.zip"), "train", labels="kind", holdout=0.0),
        "tar": Folder(str(top / "x.tar"), "train", labels="kind", holdout=0.0),
        "webdataset": Folder(str(top / "shards"), "train", holdout=0.0),
        "pairs": Pairs(str(top / "pairs"), "train", masks=(), holdout=0.0),
        "arrays": Arrays(str(top / "train.npz"), "train", holdout=0.0),
        "array_record": Packed(str(top / "packed"), "train"),
    }
    try:
        import datasets
    except ImportError:
        return made
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(original.class_names))}
    )
    files = [str(top / "folder" / "train" / f"{i:05d}.png") for i in range(COUNT)]
    (top / "hf").mkdir()
    table = datasets.Dataset.from_dict({"image": files, "label": labels}, features)
    table.to_parquet(str(top / "hf" / "train.parquet"))
    from jdiff.data.sources.hf import HuggingFace

    return {**made, "hf": HuggingFace(str(top / "hf"), "train", holdout=0.0)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "webdataset", "pairs", "arrays", "array_record", "hf"])
def test_batches_are_those_of_tfds(forms, kind):
    if kind not in forms:
        pytest.skip("the extra hf is not installed")
    labelled = kind != "pairs"

    def batches(source):
        view = View(
            picture=source.pictures["image"],
            resize=Resize("adm", 24, 24),
            turn=Turn(horizontal=True),
            conditions=(Label(class_names=("a", "b")),) if labelled else (),
        )
        ahead = train_batches(source, view, batch_size=128, seed=3)
        return [next(ahead) for _ in range(3)]

    assert len(forms[kind]) == COUNT
    for ours, theirs in zip(batches(forms[kind]), batches(forms["tfds"]), strict=True):
        np.testing.assert_array_equal(ours["x0"], theirs["x0"])
        if labelled:
            np.testing.assert_array_equal(ours["cond"]["label"], theirs["cond"]["label"])
