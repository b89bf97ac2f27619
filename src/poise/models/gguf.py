"""A small GGUF (version 3) reader: metadata and dequantised float32 tensors.

Written because Transformers' `gguf_file=` takes half a minute for a 135M model and returns one that counts as
quantised: it can't be trained or saved. This reader knows the tensor types of the bundled model and says so when it
meets another: F32, F16, Q4_1 and Q8_0 (block layouts as in ggml's `block_q4_1`, `block_q8_0`: 32 weights a block).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from poise.errors import PoiseError

FloatArray = npt.NDArray[np.float32]
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _BLOCK = 8, 9, 32


@dataclass
class _Cursor:
    """Reads little-endian values one after another."""

    data: memoryview
    at: int = 0

    def scalar(self, code: str) -> Any:
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.scalar("Q")
        self.at += length
        return bytes(self.data[self.at - length : self.at]).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, count = self.scalar("I"), self.scalar("Q")
            return [self.value(item) for _ in range(count)]
        return self.scalar(_SCALARS[kind])


def _f32(raw: memoryview, n: int) -> FloatArray:
    return np.frombuffer(raw, "<f4", n).astype(np.float32)


def _f16(raw: memoryview, n: int) -> FloatArray:
    return np.frombuffer(raw, "<f2", n).astype(np.float32)


def _q8_0(raw: memoryview, n: int) -> FloatArray:
    """w = d * q, with q a signed byte."""
    block = np.frombuffer(raw, np.dtype([("d", "<f2"), ("q", "i1", _BLOCK)]), n // _BLOCK)
    return block["d"].astype(np.float32)[:, None] * block["q"].astype(np.float32)


def _q4_1(raw: memoryview, n: int) -> FloatArray:
    """w = d * q + m, with q four bits: first the low halves of 16 bytes, then the high halves."""
    block = np.frombuffer(raw, np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", _BLOCK // 2)]), n // _BLOCK)
    q = np.concatenate([block["q"] & 15, block["q"] >> 4], axis=1).astype(np.float32)
    return block["d"].astype(np.float32)[:, None] * q + block["m"].astype(np.float32)[:, None]


_TENSORS: dict[int, Callable[[memoryview, int], FloatArray]] = {0: _f32, 1: _f16, 3: _q4_1, 8: _q8_0}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Read a GGUF file.

    Returns:
        Metadata by key, and tensors by GGUF name as float32 arrays with the row axis first.

    Raises:
        PoiseError: not a GGUF version 3 file, cut short, or a tensor type that is not read here.
    """
    try:
        return _read(memoryview(path.read_bytes()), path)
    except (struct.error, ValueError, KeyError, OSError, ArithmeticError, TypeError) as error:
        raise PoiseError(
            f"can't be read as GGUF: {error}", where=str(path), do="fetch the model again: poise models fetch"
        ) from error


def _read(data: memoryview, path: Path) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    cursor = _Cursor(data)
    if bytes(data[:4]) != b"GGUF":
        raise ValueError("the first four bytes are not GGUF")
    cursor.at = 4
    if (version := cursor.scalar("I")) != 3:
        raise ValueError(f"version {version}, only 3 is read")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.scalar("I"))
    infos = []
    for _ in range(tensor_count):
        name, dims = cursor.text(), cursor.scalar("I")
        shape = [cursor.scalar("Q") for _ in range(dims)][::-1]
        infos.append((name, shape, cursor.scalar("I"), cursor.scalar("Q")))
    align = metadata.get("general.alignment", 32)
    base = (cursor.at + align - 1) // align * align
    tensors = {}
    for name, shape, kind, offset in infos:
        if kind not in _TENSORS:
            raise ValueError(f"tensor {name} has GGUF type {kind}; read are {sorted(_TENSORS)} (F32, F16, Q4_1, Q8_0)")
        tensors[name] = _TENSORS[kind](data[base + offset :], math.prod(shape)).reshape(shape)
    return metadata, tensors
