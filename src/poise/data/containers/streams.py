"""Bytes of plain, gzip and zstandard files, in blocks, with a guard against archives that unpack without end."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from poise.errors import PoiseError

BLOCK = 1 << 20
MAX_LINE = 32 << 20
"""Bytes of a text line that are read; the longest conversation we know of is a hundredth of it."""
MAX_RATIO, BOMB_FLOOR = 200, 1 << 30
"""An archive is refused when it unpacks to over 1 GiB and to over 200 times its size: texts compress 3 to 10 times, and
even one row repeated for ever stays small in memory, so smaller ones do no harm."""


class BrokenStreamError(Exception):
    """The archive is damaged or cut; the message says how."""


def read_blocks(path: Path) -> Iterator[bytes]:
    """The content of a file, unpacked by suffix (.gz, .zst), a megabyte at a time.

    Raises:
        BrokenStreamError: a damaged or truncated archive, after what could be read.
        PoiseError: it can't be read, or unpacks without end.
    """
    blocks = {".gz": _gzip_blocks, ".zst": _zstd_blocks}.get(path.suffix, _plain_blocks)
    try:
        packed, unpacked = path.stat().st_size, 0
        for block in blocks(path):
            unpacked += len(block)
            if unpacked > BOMB_FLOOR and unpacked > MAX_RATIO * packed:
                raise PoiseError(
                    f"unpacks to over {unpacked >> 30} GiB from {packed:,} bytes",
                    where=str(path),
                    do="unpack it yourself",
                )
            yield block
    except OSError as error:
        raise PoiseError(f"cannot be read ({error.strerror or error})", where=str(path), do="check the path") from error


def read_text_lines(path: Path) -> Iterator[bytes | None]:
    """Lines without their line ends; None stands for a line of over `MAX_LINE` bytes, which is skipped.

    Raises:
        BrokenStreamError, PoiseError: as `read_blocks`.
    """
    rest, skipping = b"", False
    for block in read_blocks(path):
        lines = (rest + block).split(b"\n") if rest else block.split(b"\n")
        rest = lines.pop()
        for line in lines:
            if skipping or len(line) > MAX_LINE:
                skipping = False
                yield None
            else:
                yield line
        if len(rest) > MAX_LINE:
            rest, skipping = b"", True
    if skipping or rest:
        yield None if skipping else rest


def _plain_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    """All members of a gzip file, one after the other."""
    unpack, done = zlib.decompressobj(wbits=31), True
    with path.open("rb") as file:
        while data := file.read(BLOCK >> 2):
            while data:
                try:
                    block = unpack.decompress(data, BLOCK)
                except zlib.error as error:
                    raise BrokenStreamError(f"damaged archive ({error})") from error
                if block:
                    yield block
                done = unpack.eof
                data = unpack.unused_data.lstrip(b"\0") if done else unpack.unconsumed_tail
                if done:
                    unpack = zlib.decompressobj(wbits=31)
    if not done:
        raise BrokenStreamError("the archive is cut off")


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, "zstd") as stream:
        while True:
            try:
                block = stream.read(BLOCK)
            except OSError as error:
                raise BrokenStreamError(f"damaged archive ({str(error).split(':', 1)[0]})") from error
            if not block:
                return
            yield block
