"""Reading torch's files of weights without torch: .pth and .bin of torch.save, old and new, and TorchScript's .pt.

A file holds pickled objects, whose tensors refer to storages (raw bytes) by key. Of classes only those of tensors and
dictionaries are known here, so that a file can run no code.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from jdiff.common.errors import UserError, first_line
from jdiff.interop.tensors import Tensors

MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6
DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def read(file: Path) -> Tensors:
    """The tensors of a file as float32, by their names in the state dict. Raises UserError where it cannot be read."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _of_zip(archive)
        with file.open("rb") as opened:
            return _of_stream(opened)
    except (pickle.UnpicklingError, zipfile.BadZipFile, struct.error, *_MALFORMED) as error:
        raise UserError(f"{file} is not a whole file of torch's tensors: {first_line(error)}") from error


_MALFORMED = (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, UnicodeDecodeError)
Storages = Callable[[str], bytes]


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int  # these in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storages: Storages) -> np.ndarray:
        flat = np.frombuffer(storages(self.storage.key), self.storage.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, np.float32)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= len(flat):
            raise ValueError(f"a tensor of {list(self.shape)} reaches beyond its {len(flat)} stored values")
        steps = [stride * flat.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps).astype(np.float32)


class _Script:
    """An object of TorchScript: modules and tensors by name."""


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _first(value: Any, *_: Any) -> Any:
    return value


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch.jit._pickle", "restore_type_tag"): _first,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Script
        try:
            return KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it holds an object of {module}.{name}, not tensors alone") from None

    def persistent_load(self, identity: Any) -> _Storage:
        _, dtype, key, *_ = identity
        return _Storage(str(key), dtype)


def _of_zip(archive: zipfile.ZipFile) -> Tensors:
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if not pickles:
        raise ValueError("the archive has no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    found = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    return _arrays(found, lambda key: archive.read(f"{folder}data/{key}"))


def _of_stream(opened: BinaryIO) -> Tensors:
    if _Unpickler(opened).load() != MAGIC:
        raise ValueError("it does not begin as torch's files do")
    _version, _machine, found, keys = (_Unpickler(opened).load() for _ in range(4))
    widths = {tensor.storage.key: tensor.storage.dtype.itemsize for _, tensor in _named(found)}
    contents = {}
    for key in keys:
        (count,) = struct.unpack("<q", opened.read(8))
        if key not in widths:
            raise ValueError("it stores values that belong to no tensor")
        contents[key] = opened.read(count * widths[key])
    return _arrays(found, contents.__getitem__)


def _arrays(found: Any, storages: Storages) -> Tensors:
    return {name: tensor.array(storages) for name, tensor in _named(found)}


def _named(found: Any, prefix: str = "") -> Iterator[tuple[str, _Tensor]]:
    """The tensors of nested dictionaries or modules, by the path of names to them."""
    parts = vars(found) if isinstance(found, _Script) else found
    if not isinstance(parts, dict):
        raise ValueError("it holds no dictionary of tensors")
    for name, part in parts.items():
        if isinstance(part, _Tensor):
            yield f"{prefix}{name}", part
        elif isinstance(part, dict | _Script):
            yield from _named(part, f"{prefix}{name}.")
