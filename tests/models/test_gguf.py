"""The GGUF reader on files written byte by byte, and on damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poise.errors import PoiseError
from poise.models.gguf import read_gguf

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(
    metadata: list[tuple[str, int, bytes]], tensors: list[tuple[str, tuple[int, ...], int, bytes]], version: int = 3
) -> bytes:
    """A GGUF file: `metadata` are (key, type, value bytes), `tensors` are (name, GGUF dimensions, type, data)."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, value in metadata:
        head += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, dims, kind, raw in tensors:
        data += b"\0" * (-len(data) % 32)
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += raw
    return head + b"\0" * (-len(head) % 32) + data


def write(folder: Path, content: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return path


def q8_block(scale: float, values: list[int]) -> bytes:
    return struct.pack("<e32b", scale, *values)


def q4_block(scale: float, minimum: float, low: int, high: int) -> bytes:
    """16 bytes whose low halves are all `low` and whose high halves are all `high`."""
    return struct.pack("<ee", scale, minimum) + bytes([low | high << 4]) * 16


def small_file() -> bytes:
    metadata = [("name", 8, text("tiny")), ("layers", 4, struct.pack("<I", 2))]
    return gguf(metadata, [("a", (3,), F32, struct.pack("<3f", 1, 2, 3)), ("b", (32,), Q8_0, q8_block(1.0, [1] * 32))])


def test_metadata_of_every_type(tmp_path: Path) -> None:
    rows = [
        ("u8", 0, struct.pack("<B", 200)),
        ("i8", 1, struct.pack("<b", -3)),
        ("u16", 2, struct.pack("<H", 60000)),
        ("i16", 3, struct.pack("<h", -300)),
        ("u32", 4, struct.pack("<I", 4_000_000_000)),
        ("i32", 5, struct.pack("<i", -7)),
        ("f32", 6, struct.pack("<f", 0.5)),
        ("flag", 7, b"\1"),
        ("text", 8, text("café ▁Ġ")),
        ("u64", 10, struct.pack("<Q", 2**60)),
        ("i64", 11, struct.pack("<q", -(2**60))),
        ("f64", 12, struct.pack("<d", 1e-5)),
        ("words", 9, struct.pack("<IQ", 8, 2) + text("a b") + text("")),
        ("nested", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ3h", 3, 3, 1, 2, -3)),
    ]
    metadata, tensors = read_gguf(write(tmp_path, gguf(rows, [])))
    assert tensors == {}
    assert metadata == {
        **{"u8": 200, "i8": -3, "u16": 60000, "i16": -300, "u32": 4_000_000_000, "i32": -7, "f32": 0.5, "flag": True},
        **{"text": "café ▁Ġ", "u64": 2**60, "i64": -(2**60), "f64": 1e-5, "words": ["a b", ""], "nested": [[1, 2, -3]]},
    }


def test_plain_tensors_have_the_row_axis_first(tmp_path: Path) -> None:
    """GGUF names the fastest axis first: dimensions (3, 2) are two rows of three."""
    raw = [struct.pack("<6f", *range(6)), struct.pack("<6e", *[x / 4 for x in range(6)])]
    _, tensors = read_gguf(write(tmp_path, gguf([], [("w", (3, 2), F32, raw[0]), ("h", (3, 2), F16, raw[1])])))
    assert tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["h"].tolist() == [[0, 0.25, 0.5], [0.75, 1.0, 1.25]]
    assert all(t.dtype == np.float32 for t in tensors.values())


def test_q8_0_is_scale_times_signed_byte(tmp_path: Path) -> None:
    """Blocks of 32: d = 0.5 with q = -128..., then d = 2 with q = 3."""
    first = [-128, 127, 0, 1, *[-1] * 28]
    raw = q8_block(0.5, first) + q8_block(2.0, [3] * 32)
    _, tensors = read_gguf(write(tmp_path, gguf([], [("w", (32, 2), Q8_0, raw)])))
    assert tensors["w"].shape == (2, 32)
    assert tensors["w"][0].tolist() == [-64.0, 63.5, 0.0, 0.5, *[-0.5] * 28]
    assert tensors["w"][1].tolist() == [6.0] * 32


def test_q4_1_is_scale_times_nibble_plus_minimum(tmp_path: Path) -> None:
    """d = 0.5, m = -1: low halves 3 give 0.5 in weights 0-15, high halves 15 give 6.5 in weights 16-31."""
    raw = q4_block(0.5, -1.0, 3, 15) + q4_block(0.25, 2.0, 0, 8)
    _, tensors = read_gguf(write(tmp_path, gguf([], [("w", (64,), Q4_1, raw)])))
    assert tensors["w"].tolist() == [0.5] * 16 + [6.5] * 16 + [2.0] * 16 + [4.0] * 16


def test_alignment_from_the_metadata(tmp_path: Path) -> None:
    """With general.alignment = 8 the data starts at the next multiple of 8, not of 32."""
    raw = struct.pack("<2f", 7, 8)
    content = gguf([("general.alignment", 4, struct.pack("<I", 8))], [("w", (2,), F32, raw)])
    bare = len(b"GGUF") + 20 + len(text("general.alignment")) + 8 + len(text("w")) + 4 + 8 + 4 + 8
    start = (bare + 7) // 8 * 8
    _, tensors = read_gguf(write(tmp_path, content[:bare] + b"\0" * (start - bare) + raw))
    assert tensors["w"].tolist() == [7.0, 8.0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "first four bytes are not GGUF"),
        (b"GGML" + small_file()[4:], "first four bytes are not GGUF"),
        (b"GGUF", "can't be read as GGUF"),
        (gguf([], [], version=2), "version 2, only 3 is read"),
        (gguf([], [("w", (256,), 12, bytes(144))]), r"tensor w has GGUF type 12; read are \[0, 1, 3, 8\]"),
        (gguf([("odd", 99, b"")], []), "can't be read as GGUF"),
        (gguf([], [("w", (5,), Q8_0, q8_block(1, [0] * 32))]), "can't be read as GGUF"),
    ],
)
def test_what_is_not_read_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(PoiseError, match=says) as caught:
        read_gguf(write(tmp_path, content))
    assert caught.value.where.endswith("model.gguf") and "poise models fetch" in caught.value.do


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="can't be read as GGUF"):
        read_gguf(tmp_path / "none.gguf")


def test_cut_short_anywhere(tmp_path: Path) -> None:
    whole = small_file()
    for length in range(len(whole)):
        with pytest.raises(PoiseError):
            read_gguf(write(tmp_path, whole[:length]))
    assert set(read_gguf(write(tmp_path, whole))[1]) == {"a", "b"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(small_file()) - 1), value=st.integers(0, 255), run=st.integers(1, 8))
def test_damaged_bytes_end_in_a_clear_error_or_in_numbers(tmp_path: Path, at: int, value: int, run: int) -> None:
    content = bytearray(small_file())
    content[at : at + run] = bytes([value]) * len(content[at : at + run])
    try:
        read_gguf(write(tmp_path, bytes(content)))
    except PoiseError as error:
        assert "can't be read as GGUF" in str(error)
