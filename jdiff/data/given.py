"""Pictures that a trained model is given in files, read as those that it was trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Num

from jdiff.common.errors import UserError
from jdiff.common.words import one_line
from jdiff.data import medical
from jdiff.data.decode import Facts, Reader, header
from jdiff.data.sources import Picture
from jdiff.data.sources.files import pictures_of
from jdiff.data.sources.pairs import PictureReader
from jdiff.data.trees import Tree, called, open_tree

LIKE_BLACK = 16  # of 255: 12 bits in 16, brought to 8, reach no higher


@dataclass(frozen=True, kw_only=True)
class Given:
    """The pictures of a folder.

    picture: their description in training. axis: along which NIfTI volumes are cut. half: (data.halves, 0 or 1) where
    training's files hold two pictures each: a file about twice as wide (or as high) as one holds both.
    """

    tree: Tree
    names: tuple[str, ...]
    picture: Picture
    axis: int = 2
    half: tuple[str, int] | None = None

    def pages(self, name: str) -> int:
        """The slices or frames of a DICOM or NIfTI file, which is looked at as a whole; 1 of others. Raises UserError
        where it cannot be read.
        """
        kind = medical.kind_of(name)
        if not kind:
            return 1
        try:
            with self.tree.open(name) as stream:
                return medical.reader(kind, self.axis).look(stream).pages
        except (OSError, ValueError) as error:
            raise self._fault(name, error) from error

    def read(self, name: str, page: int = 0) -> Num[np.ndarray, "h w c"]:
        """A picture, its values within training's range. Raises UserError where it cannot be read, or is of another
        kind than training's.
        """
        try:
            with self.tree.open(name) as stream:
                return self._read(stream, medical.kind_of(name), page)
        except UserError:
            raise
        except Exception as error:  # Pillow's plugins have no common base class for errors
            raise self._fault(name, error) from error

    def both(self) -> tuple[str, ...]:
        """The files that are taken to hold both halves, of which one is read."""
        if not self.half:
            return ()
        found = []
        for name in self.names:
            if not medical.kind_of(name):
                with self.tree.open(name) as stream:
                    found += [name] if self._is_both(header(stream)) else []
        return tuple(found)

    def _is_both(self, facts: Facts) -> bool:
        """Whether a file's aspect, height / width, is nearer to that of both halves than to that of one."""
        height, width, _ = self.picture.shape
        if not self.half or height is None or width is None:
            return False
        times = facts.height / facts.width * width / height
        return (times if self.half[0] == "top,bottom" else 1 / times) > 2**0.5

    def _fault(self, name: str, error: Exception) -> UserError:
        return UserError(one_line(f"{called(self.tree, name)} cannot be read: {str(error) or type(error).__name__}"))

    def _read(self, stream: BufferedIOBase, kind: str, page: int) -> np.ndarray:
        wanted = self.picture
        mask, deep = wanted.kind == "mask", wanted.dtype == "uint16"
        if kind:
            values = PictureReader(medical.reader(kind, self.axis), mask)(stream, page)
            if (values.dtype.name, values.shape[-1]) != (wanted.dtype, wanted.channels):
                raise ValueError(
                    f"it holds {_words(values.dtype.name, values.shape[-1])}, and this model was trained on "
                    f"{_words(wanted.dtype, wanted.channels)}"
                )
        elif wanted.dtype == "float32":
            raise ValueError("it is an image file, and this model was trained on values as DICOM and NIfTI hold them")
        else:
            facts = header(stream)
            if deep and facts.bits == 8:
                raise ValueError("it has 8 bits a channel, and this model was trained on 16")
            reader = Reader(wanted.channels, 16 if deep else 8)
            values = PictureReader(reader, mask, self.half if self._is_both(facts) else None)(stream)
            if facts.bits == 16 and not deep and not mask and 0 < values.max() <= LIKE_BLACK:
                raise ValueError(
                    "it has 16 bits a channel, of which it uses 12 at most: of the 8 bits that this model was trained "
                    "on, hardly one would be left; scale its values up"
                )
        if mask:
            strays = sorted(set(np.unique(values).tolist()) - set(wanted.values)) if wanted.values else []
            if strays:
                raise ValueError(
                    f"it holds {strays[0]}, and the masks that this model was trained on hold "
                    f"{', '.join(map(str, wanted.values))}"
                )
        return values if mask else values.clip(wanted.low, wanted.high).astype(values.dtype)


def given(folder: str, key: str, picture: Picture, axis: int = 2, half: tuple[str, int] | None = None) -> Given:
    """The pictures below a folder, or in an archive, that the config's `key` names. Raises UserError where there are
    none.
    """
    tree = open_tree(folder, key)
    names = pictures_of(tree)
    if not names:
        raise UserError(f"{key}={folder}: no pictures are below it")
    return Given(tree=tree, names=names, picture=picture, axis=axis, half=half)


def stems(names: Sequence[str]) -> dict[str, str]:
    """What is made of each file is called: its name without its ending, but with it where two would be the same."""
    called = {name: _stem(name) for name in names}
    while twice := {stem for stem, count in Counter(called.values()).items() if count > 1}:
        called = {name: name if stem in twice else stem for name, stem in called.items()}
    return called


def _stem(name: str) -> str:
    low = name.lower()
    if medical.kind_of(name) and not low.endswith(medical.ENDINGS):
        return name  # an identifier, such as 1.2.840.5, or a name without an ending
    return str(PurePosixPath(name[:-3] if low.endswith(".nii.gz") else name).with_suffix(""))


def _words(dtype: str, channels: int) -> str:
    return "values in DICOM's or NIfTI's units" if dtype == "float32" else f"{dtype} of {channels} channels"
