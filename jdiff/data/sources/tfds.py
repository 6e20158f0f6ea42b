"""TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jdiff.common.errors import UserError, first_line, install
from jdiff.common.paths import expanded
from jdiff.common.words import many
from jdiff.data.holdout import share_of
from jdiff.data.sources import HIGHEST, Picture
from jdiff.data.splits import choose

LOOKED_AT = 32  # records, evenly spread, whose labels tell whether a split hides them


class Tfds:
    """The TFDS data set `name` ("cifar10", "name/config:version") below `data_dir` (default ~/tensorflow_datasets),
    prepared as array_record.

    Records: "image" uint8 or uint16 [h, w, c] and, of a ClassLabel, "label": int. The notes begin with a line that says
    how it was read.

    split: "train" or "test": the first of test, testing, val, valid and validation whose labels are not hidden (all
    -1), else a fixed share of "train" (`holdout`, as in Folder, but not of each class alike: labels lie in the records,
    which are not read for it). splits: names of the split to train on and of the one held out; (): as above. Raises
    UserError if the data set is unknown, of another kind, or missing or damaged; the message then gives the command
    that prepares it.
    """

    captions = ()
    scalar_names = ()
    labels_per_image = 1

    def __init__(self, name: str, split: str, data_dir: str, *, splits: tuple[str, ...] = (), holdout: float = 0.05):
        import tensorflow_datasets as tfds

        self._where = f"data set {name!r} in {data_dir or '~/tensorflow_datasets'}"
        try:
            builder = tfds.builder(name, data_dir=str(expanded(data_dir)) if data_dir else None)
            info = builder.info
            if not info.splits:
                raise FileNotFoundError("nothing is there")
            label = dict(info.features).get("label")
            self.class_names = tuple(getattr(label, "names", ()))  # of a ClassLabel; a plain number has none

            def why_not(train: str, test: str) -> str:
                return _why_not(builder.as_data_source(test), labelled=bool(self.class_names))

            chosen = choose(list(info.splits), splits, f"tfds:{name}", why_not)
            self._records = builder.as_data_source(chosen.test if chosen.test and split == "test" else chosen.train)
            count = len(self._records)
            self._rows = None if chosen.test else share_of(count, split, holdout)
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
        classes = (
            f"{many(len(self.class_names), 'class', 'classes')} from 'label'" if self.class_names else "no classes"
        )
        held = count - len(self._rows) if self._rows is not None and split == "train" else 0
        told = f"{held:,} of them" if held else ""
        self.notes = (chosen.told(f"tfds:{name}", count, classes, told),) if split == "train" else ()

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


def _why_not(records: Any, *, labelled: bool) -> str:
    """What keeps a split from being held out; "" if nothing does."""
    rows = np.unique(np.linspace(0, len(records) - 1, LOOKED_AT).astype(int)).tolist()
    return "hidden labels" if labelled and all(one["label"] < 0 for one in records.__getitems__(rows)) else ""


def _not_prepared(name: str, data_dir: str, error: Exception) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    return (
        f"data set {name!r} is not prepared as array_record in {data_dir or '~/tensorflow_datasets'}"
        f" ({first_line(error)}); prepare it once with: {install('prepare')} && "
        f"tfds build {name} --file_format=array_record{where}"
    )
