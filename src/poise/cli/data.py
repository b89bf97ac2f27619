"""`poise data`: files in any public format to tables, and tables to a validated and audited release.

Tables are a folder that `read` writes. Every verb that makes tables writes a new folder, which appears when it is
complete; a killed command is simply run again, which removes what it left.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.data.adapters.base import Format
    from poise.data.reading import Progress
    from poise.data.tables import Tables

app = typer.Typer(
    help="Data: read any public format, validate, audit, deduplicate, split, map, pair, release.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="TABLES", help="Tables, a release, or files with --format.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the new tables go.")]
OptionalOut = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the result goes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]
FormatName = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="Format of the files, see `poise data formats`.")
]
Mapping = Annotated[Path | None, typer.Option(metavar="FILE", help="A column mapping, in place of --format.")]
Seed = Annotated[int, typer.Option(help="Another seed, another choice.")]
PAIRS = "pku-safe-rlhf"
Licence = Annotated[str | None, typer.Option(help="Licence of the texts, SPDX id.")]


@contextmanager
def rows_done(what: str) -> Iterator[Progress]:
    """A progress line that counts rows."""
    from poise.pipeline import progress

    with progress(iter(()), unit="rows", what=what) as bar:
        yield lambda rows, _what: bar.update(rows)


def chosen_format(name: str | None, mapping: Path | None, path: Path) -> Format:
    """The format that the user names, or the only one that fits the first row."""
    from poise.data.adapters.mapping import load_mapping
    from poise.data.adapters.registry import detect, format_of
    from poise.data.containers import Line, find_files, read_lines

    if mapping is not None:
        return load_mapping(mapping)
    if name is not None:
        return format_of(name)
    first = next((line for line in read_lines(find_files(path)[0]) if isinstance(line, Line)), None)
    found = None if first is None else detect(first.row)
    if found is None:
        columns = "none" if first is None else ", ".join(list(first.row)[:12])
        raise PoiseError(
            f"the format is not clear from the columns ({columns})",
            where=str(path),
            do="name it with --format or --mapping",
        )
    return found


@contextmanager
def opened(path: Path, name: str | None = None, mapping: Path | None = None) -> Iterator[Tables]:
    """Tables as they are, or files read into tables that are gone afterwards."""
    from poise.data.reading import Reader
    from poise.data.tables import open_tables

    if name is None and mapping is None and (path / "data").is_dir():
        yield open_tables(path)
        return
    with tempfile.TemporaryDirectory(prefix="poise-") as temporary, rows_done("reading") as tell:
        reader = Reader(chosen_format(name, mapping, path))
        tables = reader.read([path], Path(temporary) / "tables", progress=tell)
        left_out = tables.manifest()["step"]["left_out"]
        if left_out:
            typer.echo(f"not read: {_counts(left_out)}", err=True)
        yield tables


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items()) or "none"


@app.command()
def formats() -> None:
    """The formats that can be read, which of them can be written, and the sets that have a mapping."""
    from poise.data.adapters.registry import FORMATS, mappings

    for form in FORMATS.values():
        typer.echo(f"{form.name:26s} {'read, write' if form.encode else 'read':12s} {form.about}")
    typer.echo("\nmappings of columns, by name of the set:")
    for mapped in mappings().values():
        typer.echo(f"{mapped.name:26s} {'read':12s} {mapped.about}")


@app.command()
def read(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, or owner/name@revision.")],
    out: Out,
    name: FormatName = None,
    mapping: Mapping = None,
    mode: Annotated[
        Literal["quarantine", "raise", "repair"], typer.Option(help="What happens to a row that can't be read.")
    ] = "quarantine",
    dataset: Annotated[str | None, typer.Option(help="Name of the data set; default: the format's.")] = None,
    licence: Licence = None,
    split: Annotated[Literal["train", "test"] | None, typer.Option(help="Split of all rows.")] = None,
    force: Force = False,
) -> None:
    """Read files of one format into tables; rows that can't be read go to quarantine.jsonl with the reason."""
    from poise.data.containers import resolve
    from poise.data.reading import Reader

    places = [resolve(path) for path in paths]
    form = chosen_format(name, mapping, places[0])
    reader = Reader(form, mode, dataset or form.name, licence, split)
    with rows_done("reading") as tell:
        tables = reader.read(places, out, replace=force, progress=tell)
    step = tables.manifest()["step"]
    typer.echo(f"{out}: {_counts(tables.rows)} ({form.name}); quarantined: {_counts(step['left_out'])}")


@app.command()
def write(
    tables: Folder,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Its suffix decides the container.")],
    name: Annotated[str, typer.Option("--format", metavar="NAME", help="Format, see `poise data formats`.")],
) -> None:
    """Write tables as a file of a public format: .jsonl, .jsonl.gz, .jsonl.zst, .json, .csv, .parquet or .arrow."""
    from poise.data.adapters.registry import format_of
    from poise.data.tables import open_tables
    from poise.data.writing import write_format

    typer.echo(f"{out}: {write_format(open_tables(tables), format_of(name), out):,} rows")


@app.command()
def seeds(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Its suffix decides the container.")],
    name: Annotated[str, typer.Option("--format", metavar="NAME", help="Format, see `poise data formats`.")] = PAIRS,
) -> None:
    """Write the labelled answers and ranked pairs that come with Poise, to try a command without data of your own."""
    from poise.data import load_seeds
    from poise.data.adapters.registry import format_of
    from poise.data.release_rows import Final, corpus_tables
    from poise.data.writing import write_format

    with tempfile.TemporaryDirectory(prefix="poise-") as temporary:
        corpus = load_seeds()
        tables = corpus_tables(corpus, Final.of(corpus), Path(temporary) / "tables")
        typer.echo(f"{out}: {write_format(tables, format_of(name), out):,} rows")


@app.command()
def validate(
    path: Folder,
    mode: Annotated[
        Literal["keep", "raise", "quarantine", "repair"], typer.Option(help="What happens to a row that breaks a rule.")
    ] = "keep",
    out: OptionalOut = None,
    name: FormatName = None,
    mapping: Mapping = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the machine-readable summary.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Hold it to what a release must be.")] = False,
    force: Force = False,
) -> None:
    """Check every rule; exit code 4 when one is broken. Without --out nothing is written."""
    from poise.data.validate import validate as check
    from poise.data.validate import validate_release

    if release:
        result = validate_release(path)
    else:
        with opened(path, name, mapping) as tables, rows_done("checking") as tell:
            result = check(tables, mode, out, replace=force, progress=tell)
    typer.echo(json.dumps(result.to_json(), ensure_ascii=False, indent=2) if as_json else result.summary())
    if not result.ok:
        raise typer.Exit(4)


@app.command()
def audit(
    path: Folder,
    out: OptionalOut = None,
    split: Annotated[
        str | None, typer.Option(help="Only the rows of this split: published counts are of train.")
    ] = None,
    name: FormatName = None,
    mapping: Mapping = None,
) -> None:
    """What is in the data: counts, categories, severity, pairs, agreement, biases. With --out also JSON and a page."""
    from poise.data.audit import audit as measure
    from poise.data.audit import render_table, write_audit

    with opened(path, name, mapping) as tables, rows_done("auditing") as tell:
        found = measure(tables, progress=tell, split=split)
    typer.echo(render_table(found))
    if out is not None:
        write_audit(found, out, title=f"Audit of {path.name}")
        typer.echo(f"page: {out / 'audit.html'}")
