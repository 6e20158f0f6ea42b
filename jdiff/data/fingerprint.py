"""A fingerprint of data: which they are, wherever they lie."""

import hashlib
import os
from typing import Any

import numpy as np

from jdiff.data.sources import Source

SAMPLED = 64  # records whose contents are read


def fingerprint(source: Source) -> str:
    """A digest of the number, order, names and sizes of the files, of classes and captions, and of the contents of
    SAMPLED records, evenly spread. Names are below the files' common folder, so that a folder may be moved.
    """
    digest = hashlib.sha256()
    names = getattr(source, "names", ())
    top = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    facts = [(os.path.relpath(name, top), _size(name)) for name in names]
    for fact in (len(source), source.class_names, source.captions, sorted(source.scalar_names), facts):
        digest.update(repr(fact).encode())
    rows = np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(int)).tolist()
    for row in rows:
        (record,) = source.__getitems__([row])
        for name in sorted(record):
            digest.update(f"{name}{_described(record[name])}".encode())
            digest.update(_content(record[name]))
    return digest.hexdigest()[:16]


def _size(name: str) -> int:
    try:
        return os.path.getsize(name)
    except OSError:  # a record within an archive or a table
        return -1


def _described(value: Any) -> str:
    return f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else ""


def _content(value: Any) -> bytes:
    return np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
