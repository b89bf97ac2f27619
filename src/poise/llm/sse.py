"""Server-sent events from bytes as they come, cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator


class EventParser:
    """Collects bytes and gives the data of each event once it is complete. Names, ids and comments are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, part: bytes) -> Iterator[str]:
        """The data of the events that these bytes complete.

        Args:
            part: the next bytes. Lines end with LF, CR or CR LF.
        """
        text = self._rest + part
        held = b"\r" if text.endswith(b"\r") else b""  # half of a CR LF, perhaps
        lines = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                yield data.decode("utf-8", "replace")
