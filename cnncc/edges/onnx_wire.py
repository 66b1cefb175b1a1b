"""Finds the weights in the bytes of an ONNX model, so that protobuf does not copy them, nor Python after it.

A message is a row of fields, each a key (its number << 3 | its wire type) and what the wire type says: a varint (0),
8 bytes (1), a length and so many bytes (2), 4 bytes (5). https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

Piece: TypeAlias = "memoryview | bytes"

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto, TensorProto
_BYTES = 2  # the wire type of messages and bytes
_SIZES = {1: 8, 5: 4}
LEAST = 4096  # bytes: elements of smaller tensors stay in the message


class _IrregularError(Exception):
    """Bytes that are no message, or a group, which no ONNX file has."""


def cut_weights(data: memoryview) -> tuple[bytes, dict[int, np.ndarray]]:
    """The bytes of a model without the elements of its graph's large initializers, and those elements as bytes, by the
    number of the initializer; they lie in `data`.

    What is no message is given back as it is, for protobuf to say so.
    """
    weights: dict[int, np.ndarray] = {}
    number = -1

    def tensor(begin: int, end: int) -> list[Piece]:
        nonlocal number
        number += 1
        raw = [place for field, *place in _fields(data, begin, end) if field == _RAW_DATA]
        if len(raw) != 1 or raw[0][2] - raw[0][1] < LEAST:
            return [data[begin:end]]
        start, first, last = raw[0]
        weights[number] = np.frombuffer(data[first:last], np.uint8)
        return [data[begin:start], data[last:end]]

    def graph(begin: int, end: int) -> list[Piece]:
        return _changed(data, begin, end, _INITIALIZER, tensor)

    try:
        return b"".join(_changed(data, 0, len(data), _GRAPH, graph)), weights
    except _IrregularError:
        return bytes(data), {}


def _changed(
    data: memoryview, begin: int, end: int, field: int, change: Callable[[int, int], list[Piece]]
) -> list[Piece]:
    """A message in pieces, the messages in one of its fields changed."""
    pieces: list[Piece] = []
    done = begin
    for found, start, first, last in _fields(data, begin, end):
        if found == field:
            made = change(first, last)
            pieces += [data[done:start], _varint(field << 3 | _BYTES), _varint(sum(map(len, made))), *made]
            done = last
    return [*pieces, data[done:end]]


def _fields(data: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of wire type 2: their numbers, where they begin, and where their bytes begin and end."""
    at = begin
    while at < end:
        start = at
        key, at = _number(data, at, end)
        wire = key & 7
        if wire == 0:
            _, at = _number(data, at, end)
        elif wire in _SIZES:
            at += _SIZES[wire]
        elif wire == _BYTES:
            length, first = _number(data, at, end)
            at = first + length
            if at <= end:
                yield key >> 3, start, first, at
        else:
            raise _IrregularError
    if at > end:
        raise _IrregularError


def _number(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """The varint at a place, and the place behind it."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _IrregularError


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)
