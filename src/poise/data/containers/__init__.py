"""Files as streams of rows, whatever they are kept in, and rows as files.

A line that is no row is a `BadLine` and never stops the reading. Nothing is unpickled and no code of a data set is run.
Left out: formats of other fields (XML, spreadsheets); convert them to CSV.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from poise.data.containers.arrow import read_batches, read_columnar
from poise.data.containers.delimited import read_csv
from poise.data.containers.find import SUFFIXES, find_files, is_data
from poise.data.containers.hub import resolve
from poise.data.containers.lines import BadLine, Line
from poise.data.containers.text import read_json_lines, read_json_list
from poise.data.containers.write import write_lines
from poise.errors import PoiseError

__all__ = ["SUFFIXES", "BadLine", "Line", "find_files", "read_batches", "read_lines", "resolve", "write_lines"]


def read_lines(path: Path) -> Iterator[Line | BadLine]:
    """The rows of one file, by its suffix.

    Raises:
        PoiseError: it does not exist, has an unknown suffix, or is not what its suffix says.
    """
    if not path.is_file():
        raise PoiseError("no such file", where=str(path), do="check the path")
    if not is_data(path.name):
        raise PoiseError(f"unknown suffix {path.suffix!r}", where=str(path), do=f"one of {', '.join(SUFFIXES)}")
    kind = path.suffixes[-2] if path.suffix in (".gz", ".zst") else path.suffix
    if kind in (".parquet", ".arrow", ".feather"):
        return read_columnar(path)
    if kind in (".csv", ".tsv"):
        return read_csv(path)
    return read_json_list(path) if kind == ".json" else read_json_lines(path)
