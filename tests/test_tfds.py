"""Splits of TFDS sets, of small sets in array_record form."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.kinds import flags
from jdiff.common.errors import UserError
from jdiff.data.sources.tfds import Tfds
from tests.conftest import TINY, config, refusal
from tests.records import assert_source

FEATURES = "tensorflow_datasets.core.features"
IMAGE = {
    "pythonClassName": f"{FEATURES}.image_feature.Image",
    "image": {"shape": {"dimensions": ["8", "8", "1"]}, "dtype": "uint8"},
}
LABEL = {"pythonClassName": f"{FEATURES}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "2"}}


def prepared(folder, **splits):
    """A data set "tiny:1.0.0" below `folder`; splits: name -> the labels of its images."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

    top = folder / "tiny" / "1.0.0"
    top.mkdir(parents=True)
    told = []
    for k, (name, labels) in enumerate(splits.items()):
        writer = ArrayRecordWriter(str(top / f"tiny-{name}.array_record-00000-of-00001"), "group_size:1")
        for i, label in enumerate(labels):
            file = io.BytesIO()
            Image.fromarray(np.random.default_rng(1000 * k + i).integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
            example = Example()
            example.features.feature["image"].bytes_list.value.append(file.getvalue())
            example.features.feature["label"].int64_list.value.append(label)
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        told.append({"name": name, "shardLengths": [str(len(labels))], "numBytes": "1", "filepathTemplate": template})
    information = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record", "splits": told}
    features = {
        "pythonClassName": f"{FEATURES}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": IMAGE, "label": LABEL}},
    }
    (top / "dataset_info.json").write_text(json.dumps(information))
    (top / "features.json").write_text(json.dumps(features))
    (top / "label.labels.txt").write_text("cat\ndog\n")
    return str(folder)


TRAIN = [0, 1] * 20


@pytest.mark.parametrize(
    ("splits", "held_out", "words"),
    [
        ({"train": TRAIN, "validation": [0, 1, 1], "test": [-1] * 50}, 3, "validation; not used: test (hidden labels)"),
        ({"test": [-1], "train": TRAIN}, 2, "held out: 2 of them; not used: test (hidden labels)"),
        ({"train": TRAIN, "test": [0, 1, -1, 0], "validation": [0]}, 4, "held out: test; not used: validation"),
        ({"train": TRAIN, "extra": [1, 0]}, 2, "held out: 2 of them; not used: extra"),
        ({"full": TRAIN}, 2, "training on full, the only split: 40 images, 2 classes from 'label'"),
    ],
    ids=["hidden", "hidden alone", "one hidden", "extra", "one"],
)
def test_what_is_held_out_has_labels(splits, held_out, words, tmp_path):
    root = prepared(tmp_path, **splits)
    train, test = (Tfds("tiny", split, root) for split in ("train", "test"))
    assert_source(train)
    assert words in train.notes[0]
    assert (len(train), len(test)) == (38 if held_out == 2 else 40, held_out)
    assert train.class_names == test.class_names == ("cat", "dog")
    assert test.notes == ()


def test_named_splits(tmp_path):
    root = prepared(tmp_path, train=TRAIN, more=[0, 1] * 10, validation=[0, 1, 1], test=[-1] * 50)
    train, test = (Tfds("tiny", split, root, splits=("more", "validation")) for split in ("train", "test"))
    assert (len(train), len(test)) == (20, 3)
    for splits, words in (
        (("train", "test"), "test has hidden labels; leave it out, and a share of train is held out"),
        (("train", "valid"), "tfds:tiny has no split 'valid'; it has .*did you mean 'validation'"),
    ):
        with pytest.raises(UserError, match=words):
            Tfds("tiny", "train", root, splits=splits)
    assert len(Tfds("tiny", "test", root, splits=("train",))) == 2
    keys = flags({"data.name": "tfds:tiny", "data.dir": root, "data.splits": ("train", "test")})
    assert "test has hidden labels" in refusal(config("digits"), *TINY, *keys, cwd=tmp_path)
