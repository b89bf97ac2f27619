"""Bytes and lines of plain, gzip and zstandard files, a block at a time, with a guard against archives that unpack
without end.

Memory stays bounded whatever the file holds: of a line that is too long only the beginning is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from poise.data.containers.lines import SHOWN
from poise.errors import PoiseError

BLOCK = 1 << 20
_PACKED = 1 << 16
_ZSTD = 1 << 14
"""Arrow gives nothing of a read in which it meets damage, so small reads lose little."""
MAX_LINE = 32 << 20
"""Bytes of a text line that are read; the longest conversation we know of is a hundredth of it."""
MAX_RATIO, BOMB_FLOOR = 200, 1 << 30
"""An archive is refused when it unpacks to over 1 GiB and to over 200 times its size: texts compress 3 to 10 times, and
even one row repeated for ever stays small in memory, so smaller ones do no harm."""


class BrokenStreamError(Exception):
    """The archive is damaged or cut; the message says how."""


class NoLine(NamedTuple):
    """What stands where a line should be: a line that is too long, or the place where an archive breaks."""

    rule: str
    reason: str
    head: bytes


def read_blocks(path: Path) -> Iterator[bytes]:
    """The text of a file in blocks of at most a megabyte, unpacked by suffix (.gz, .zst), without a byte-order mark.

    Raises:
        BrokenStreamError: a damaged or truncated archive, after what could be read.
        PoiseError: it can't be read, unpacks without end, or is UTF-16.
    """
    unpack = {".gz": _gzip_blocks, ".zst": _zstd_blocks}.get(path.suffix, _plain_blocks)
    try:
        packed, unpacked = path.stat().st_size, 0
        for block in unpack(path):
            if not unpacked and block.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise PoiseError("starts like UTF-16 text", where=str(path), do="save it as UTF-8")
            yield block if unpacked else block.removeprefix(b"\xef\xbb\xbf")
            unpacked += len(block)
            if unpacked > BOMB_FLOOR and unpacked > MAX_RATIO * packed:
                size = f"over {unpacked >> 20:,} MiB from {packed:,} bytes"
                raise PoiseError(f"unpacks to {size}, like a bomb", where=str(path), do="unpack it yourself")
    except OSError as error:
        raise PoiseError(f"cannot be read ({error.strerror or error})", where=str(path), do="check the path") from error


def read_line_blocks(path: Path) -> Iterator[list[bytes | NoLine]]:
    """The lines of a text file without their line ends, as many at a time as are complete.

    Lists, because a generator that hands on line by line costs as much as parsing a short one. A damaged archive ends
    with a `NoLine`; errors otherwise as `read_blocks`.
    """
    unfinished = _Unfinished()
    try:
        for block in read_blocks(path):
            lines: list[bytes | NoLine] = [*block.split(b"\n")]
            last = lines.pop()
            if lines and unfinished:
                unfinished.add(lines[0])
                lines[0] = unfinished.take()
            unfinished.add(last)
            if lines:
                yield lines
    except BrokenStreamError as error:
        head = unfinished.take()
        yield [NoLine("broken-file", str(error), head.head if isinstance(head, NoLine) else head[: 4 * SHOWN])]
        return
    if unfinished:
        yield [unfinished.take()]


class _Unfinished:
    """A line that goes on in the next block."""

    def __init__(self) -> None:
        self._bytes, self._too_long = bytearray(), False

    def __bool__(self) -> bool:
        return bool(self._bytes)

    def add(self, part: bytes | NoLine) -> None:
        assert isinstance(part, bytes)
        if not self._too_long:
            self._bytes += part
            if len(self._bytes) > MAX_LINE:
                self._bytes, self._too_long = self._bytes[: 4 * SHOWN], True

    def take(self) -> bytes | NoLine:
        taken, too_long = bytes(self._bytes), self._too_long
        self._bytes, self._too_long = bytearray(), False
        return NoLine("too-long", f"over {MAX_LINE:,} bytes", taken) if too_long else taken


def _plain_blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def _gzip_blocks(path: Path) -> Iterator[bytes]:
    """All members of a gzip file, one after the other."""
    unpack, done = zlib.decompressobj(wbits=31), False
    with path.open("rb") as file:
        while data := file.read(_PACKED):
            while data:
                before = unpack.copy()
                try:
                    block = unpack.decompress(data, BLOCK)
                except zlib.error as error:
                    yield _before_damage(before, data)
                    raise BrokenStreamError(f"damaged archive ({error})") from error
                if block:
                    yield block
                done = unpack.eof
                data = unpack.unused_data.lstrip(b"\0") if done else unpack.unconsumed_tail
                if done:
                    unpack = zlib.decompressobj(wbits=31)
    if not done:
        raise BrokenStreamError("the archive is cut off")


def _before_damage(unpack: zlib._Decompress, data: bytes) -> bytes:
    """What can be unpacked up to the damaged byte, which zlib keeps to itself when it meets damage."""
    found = bytearray()
    for place in range(len(data)):
        try:
            found += unpack.decompress(data[place : place + 1])
        except zlib.error:
            break
    return bytes(found)


def _zstd_blocks(path: Path) -> Iterator[bytes]:
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, "zstd") as stream:
        if not file.size():
            raise BrokenStreamError("the archive is cut off")
        while True:
            try:
                block = stream.read(_ZSTD)
            except OSError as error:
                raise BrokenStreamError(f"damaged archive ({str(error).splitlines()[0]})") from error
            if not block:
                return
            yield block
