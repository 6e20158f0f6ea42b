"""TensorFlow Datasets, read without TensorFlow: sets prepared as array_record, through `as_data_source`."""

from collections.abc import Sequence
from typing import Any

from jdiff.common.errors import UserError


class SplitMissingError(UserError):
    pass


class Tfds:
    """The set `name` ("cifar10", "name/config:version") under `data_dir`, features "image" and perhaps "label".

    Raises UserError, with the command that prepares the set, where it is not there.
    """

    captions = ()
    scalar_names = ()
    labels_per_image = 1
    notes = ()

    def __init__(self, name: str, split: str, data_dir: str):
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, data_dir=data_dir or None)
            info = builder.info
            if not info.splits:
                raise FileNotFoundError("nothing is there")
            if split not in info.splits:
                raise SplitMissingError(f"data set {name!r} has no split {split!r}; it has {', '.join(info.splits)}")
            self._records = builder.as_data_source(split)
        except UserError:
            raise
        except tfds.core.DatasetNotFoundError as error:
            raise UserError(f"TFDS knows no data set {name!r}: {_first_line(error)}") from error
        except (AssertionError, ImportError, NotImplementedError, OSError, ValueError, KeyError) as error:
            raise UserError(_not_prepared(name, data_dir, error)) from error
        if "image" not in info.features:
            raise UserError(f"data set {name!r} has no feature 'image'; it has {', '.join(info.features)}")
        height, width, channels = info.features["image"].shape
        self.shape = (height, width, channels or 3)
        label = dict(info.features).get("label")
        self.class_names = tuple(getattr(label, "names", ()))  # of a ClassLabel; a number has none

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records = self._records.__getitems__([int(index) for index in indices])
        names = ("image", "label") if self.class_names else ("image",)
        return [{name: record[name] for name in names} for record in records]


def _not_prepared(name: str, data_dir: str, error: Exception) -> str:
    where = f" --data_dir={data_dir}" if data_dir else ""
    return (
        f"data set {name!r} is not prepared as array_record in {data_dir or '~/tensorflow_datasets'}"
        f" ({_first_line(error)}); prepare it once with: pip install -e '.[prepare]' && "
        f"tfds build {name} --file_format=array_record{where}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
