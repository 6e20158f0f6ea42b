"""TensorFlow's frozen graphs (GraphDef, .pb), as far as their constants go.

A protocol buffer is a row of fields: a key, number << 3 | kind, and a value, which is of kind 0 a varint, of 1 eight
bytes, of 2 a length and so many bytes, of 5 four bytes (protobuf.dev, "Encoding"). A graph's constants lie in

    GraphDef.node = 1 {name = 1, op = 2, attr = 5 {key = 1, value = 2 {tensor = 8}}}
    TensorProto {dtype = 1, shape = 2 {dim = 2 {size = 1}}, content = 4, floats = 5}
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jdiff.common.errors import UserError
from jdiff.interop.tensors import Tensors

FLOAT32 = 1  # of DataType
Value = int | memoryview


def read(file: Path) -> Tensors:
    """The graph's float32 constants of at least one axis, by the names of their nodes. Raises UserError where the file
    is cut short, or holds no graph.
    """
    try:
        found: dict[str, np.ndarray] = {}
        for number, node in _fields(memoryview(file.read_bytes())):
            if number == 1:
                name, constant = _constant(node)
                found |= {} if constant is None or not constant.ndim else {name: constant}
    except (OSError, ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no whole graph of TensorFlow: {error}") from error
    return found


def _constant(node: Value) -> tuple[str, np.ndarray | None]:
    name, op, tensor = "", "", None
    for number, value in _fields(node):
        if number == 1:
            name = bytes(_bytes(value)).decode()
        elif number == 2:
            op = bytes(_bytes(value)).decode()
        elif number == 5:
            entry = dict(_fields(value))
            if bytes(_bytes(entry[1])) == b"value":
                tensor = dict(_fields(entry[2])).get(8)
    return name, _array(tensor) if op == "Const" and tensor is not None else None


def _array(tensor: Value) -> np.ndarray | None:
    """The values of a TensorProto; None where they are no float32."""
    dtype, shape, content = 0, [], bytearray()
    for number, value in _fields(tensor):
        if number == 1:
            dtype = int(value)
        elif number == 2:
            shape = [int(dict(_fields(dim)).get(1, 0)) for part, dim in _fields(value) if part == 2]
        elif number in (4, 5):
            content += _bytes(value)
    if dtype != FLOAT32:
        return None
    values = np.frombuffer(bytes(content), "<f4")
    return np.full(shape, values[0], np.float32) if values.size == 1 else values.reshape(shape)


def _fields(data: Value) -> Iterator[tuple[int, Value]]:
    data, at = _bytes(data), 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind] if kind in (1, 5) else -1, at)
        if length < 0 or at + length > len(data):
            raise ValueError(f"a field ends beyond the file, or is of the unknown kind {kind}")
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(the number that begins at a byte, low seven bits first; the byte after it)"""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _bytes(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes should")
    return value
