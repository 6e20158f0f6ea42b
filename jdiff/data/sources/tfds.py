"""TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.common.errors import UserError, first_line, install
from jdiff.common.paths import expanded
from jdiff.data.sources import HIGHEST, Picture
from jdiff.data.sources.files import TEST_NAMES, share_of


class Tfds:
    """The TFDS data set `name` ("cifar10", "name/config:version") below `data_dir` (default ~/tensorflow_datasets),
    prepared as array_record.

    Records: "image" uint8 or uint16 [h, w, c] and, of a ClassLabel, "label": int. split: "train" or "test"; without a
    test split, the validation split, else a fixed share of the training images (`holdout`, as in Folder).

    Raises UserError if the data set is unknown, of another kind, or missing or damaged; the message then gives the
    command that prepares it.
    """

    captions = ()
    scalar_names = ()
    labels_per_image = 1
    notes = ()

    def __init__(self, name: str, split: str, data_dir: str, *, holdout: float = 0.05):
        import tensorflow_datasets as tfds

        self._where = f"data set {name!r} in {data_dir or '~/tensorflow_datasets'}"
        try:
            builder = tfds.builder(name, data_dir=str(expanded(data_dir)) if data_dir else None)
            info = builder.info
            if not info.splits:
                raise FileNotFoundError("nothing is there")
            if "train" not in info.splits:
                raise UserError(f"data set {name!r} has no split 'train'; it has {', '.join(info.splits)}")
            own_test = next((test for test in TEST_NAMES if test in info.splits), None)
            self._records = builder.as_data_source(own_test if own_test and split == "test" else "train")
            self._rows = None if own_test else share_of(len(self._records), split, holdout)
        except UserError:
            raise
        except tfds.core.DatasetNotFoundError as error:
            raise UserError(f"TFDS knows no data set {name!r}: {first_line(error)}") from error
        except Exception as error:  # its readers have no common base class for errors of missing or damaged files
            raise UserError(_not_prepared(name, data_dir, error)) from error
        if "image" not in info.features:
            raise UserError(f"data set {name!r} has no feature 'image'; it has {', '.join(info.features)}")
        height, width, channels = info.features["image"].shape
        self.shape = (height, width, channels or 3)
        self._dtype = np.dtype(info.features["image"].np_dtype).name
        if self._dtype not in HIGHEST:
            raise UserError(f"data set {name!r} has images of {self._dtype}; only {' and '.join(HIGHEST)} are read")
        label = dict(info.features).get("label")
        self.class_names = tuple(getattr(label, "names", ()))  # of a ClassLabel; a plain number has none

    @property
    def pictures(self) -> dict[str, Picture]:
        opacity = self._dtype == "uint8" and self.shape[-1] == 4
        return {"image": Picture(self.shape, self._dtype, high=HIGHEST[self._dtype], alpha=opacity)}

    def __len__(self) -> int:
        return len(self._records if self._rows is None else self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = [int(index if self._rows is None else self._rows[index]) for index in indices]
        try:
            records = self._records.__getitems__(rows)
        except RuntimeError as error:  # array_record found a wrong checksum
            raise UserError(f"{self._where} is damaged ({first_line(error)}): prepare it again") from error
        names = ("image", "label") if self.class_names else ("image",)
        return [{name: record[name] for name in names} for record in records]


def _not_prepared(name: str, data_dir: str, error: Exception) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    return (
        f"data set {name!r} is not prepared as array_record in {data_dir or '~/tensorflow_datasets'}"
        f" ({first_line(error)}); prepare it once with: {install('prepare')} && "
        f"tfds build {name} --file_format=array_record{where}"
    )
