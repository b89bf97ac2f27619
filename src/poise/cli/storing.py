"""`poise annotate`, continued: the store out to tables and other tools, answers back in, pseudonyms, backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from poise.cli.annotate import Force, app
from poise.cli.workbench import Where
from poise.errors import PoiseError

Tool = Literal["label-studio", "argilla"]


@app.command()
def export(
    store: Where,
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="A folder for tables, a .json file for a tool.")],
    format: Annotated[
        Literal["tables", "label-studio", "argilla"],
        typer.Option(help="Tables of everything, or the open tasks of one stage for another tool."),
    ] = "tables",
    stage: Annotated[
        Literal["qa", "pair", "single"] | None, typer.Option(help="Whose tasks a tool gets; qa where it is not said.")
    ] = None,
    pseudonym_key: Annotated[
        Path | None,
        typer.Option("--pseudonym-key", metavar="FILE", help="Names people by keyed hash; without one by numbers."),
    ] = None,
    force: Force = False,
) -> None:
    """Write the items with what stands and all current judgements as tables, or open tasks for another tool."""
    from poise.annotate.store import AnnotationStore, export_tables, read_key

    if format != "tables":
        if pseudonym_key is not None:
            raise PoiseError(f"--pseudonym-key with --format {format}", do="leave it out: tasks name nobody")
        _tasks(store, out, format, stage or "qa", force=force)
        return
    if stage is not None:
        raise PoiseError("--stage with tables", do="leave it out: tables hold all stages")
    key = None if pseudonym_key is None else read_key(pseudonym_key, out)
    with AnnotationStore.open(store) as opened:
        tables = export_tables(opened, out, key=key, replace=force)
    typer.echo(f"{out}: " + ", ".join(f"{unit} {rows:,}" for unit, rows in tables.rows.items()))


def _tasks(store: str, out: Path, format: Tool, stage: str, *, force: bool) -> None:
    from poise.annotate.store import AnnotationStore, export_tasks
    from poise.data.adapters.registry import format_of

    with AnnotationStore.open(store) as opened:
        count = export_tasks(opened, out, stage, format_of(format), replace=force)
    beside = f"; labelling configuration in {out.with_suffix('.xml').name}" if format == "label-studio" else ""
    typer.echo(f"{out}: {count:,} open tasks of stage {stage}{beside}")


@app.command("import")
def import_(
    store: Where,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What the tool exported, as JSON.")],
    format: Annotated[Literal["label-studio", "argilla", "argilla-datasets"], typer.Option(help="Which tool.")],
    pseudonym_key: Annotated[
        Path, typer.Option("--pseudonym-key", metavar="FILE", help="Turns the tool's ids of people into pseudonyms.")
    ],
) -> None:
    """Take the answers that people gave in another tool into the store; the same file again adds nothing."""
    from poise.annotate.store import AnnotationStore, import_answers, read_key
    from poise.data.adapters.registry import format_of
    from poise.data.reading import Reader

    bad: dict[str, int] = {}

    def left_out(rule: str, reason: str, where: str, row: object) -> None:
        bad[rule] = bad.get(rule, 0) + 1

    key = read_key(pseudonym_key)
    with AnnotationStore.open(store) as opened:
        counts = import_answers(opened, Reader(format_of(format)).records([file], left_out), key)
    counts |= {f"rows that cannot be read, {rule}": count for rule, count in bad.items()}
    typer.echo(f"{store}: answers added {counts.pop('added'):,}, known already {counts.pop('known'):,}")
    for what, count in counts.items():
        typer.echo(f"    {what}: {count:,}")


@app.command("pseudonym-key")
def pseudonym_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file; keep it out of exports.")],
) -> None:
    """Make the key by which people get pseudonyms; only its owner may read the file."""
    from poise.annotate.store import make_key

    make_key(path)
    typer.echo(f"{path}: a new key; whoever has it can tell who is who, and without it nobody can")


@app.command()
def backup(
    store: Where, path: Annotated[Path, typer.Argument(metavar="FILE", help="A new file for the copy.")]
) -> None:
    """Copy a SQLite store that is in use; the copy gets its name when it has been verified."""
    from poise.annotate.store import AnnotationStore, back_up

    with AnnotationStore.open(store) as opened:
        checked = back_up(opened, path)
    typer.echo(f"{path}: {checked.events:,} events, whole; head {checked.head}")
