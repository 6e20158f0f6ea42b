"""What the readers of DICOM and NIfTI share."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedIOBase

import numpy as np

from jdiff.data.decode import MOST_PIXELS

LOGGERS = {"pydicom": ("pydicom", "openjpeg"), "nibabel": ("nibabel.global",)}
MOST_PAGES = 1 << 20  # of a file


@lru_cache
def quietly(library: str) -> None:
    """Import a library. What it warns and logs of odd files is told here as a file's fault, or is harmless."""
    __import__(library)
    warnings.filterwarnings("ignore", module=library)
    for name in LOGGERS[library]:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Errors of a library become ValueErrors of one line that begins with `what`; those of the system stay."""
    try:
        yield
    except Exception as error:  # the libraries and plugins have no common base class for errors
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{what}: {why}") from error


def check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinite values: replace them")


def check_sizes(height: int, width: int, pages: int) -> None:
    if min(height, width, pages) < 1:
        raise ValueError(f"it has no pixels: its size is {height} x {width}, {pages} of them")
    if height * width > MOST_PIXELS:
        raise ValueError(f"it claims {height} x {width} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
    if pages > MOST_PAGES:
        raise ValueError(f"it claims {pages} slices or frames, more than {MOST_PAGES}")


def size_of(stream: BufferedIOBase) -> int:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size
