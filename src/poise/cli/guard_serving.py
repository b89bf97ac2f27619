"""`poise guard export`, `bench` and `calibrate`: a trained guard made ready to serve."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from poise.cli.guard import app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.guard.fast.bench import Timing
    from poise.guard.fast.export import Engine

Guard = Annotated[Path, typer.Argument(metavar="GUARD", help="Folder that `poise guard train` wrote, or starter.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of one computation.")]


@app.command()
def export(
    guard: Guard,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")],
    engine: Annotated[
        Literal["auto", "onnx", "onnx-int8", "torch", "torch-bf16"],
        typer.Option(help="auto: the fastest here for one text of 128 tokens; onnx engines need no torch to serve."),
    ] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Short for --engine onnx-int8.")] = False,
    threads: Threads = 1,
) -> None:
    """Write a guard for serving, checked against the torch model; --engine auto measures them all first."""
    from poise.guard.fast.bench import best, lines, processor, record
    from poise.guard.fast.export import describe, export_guard

    if int8 and engine not in ("onnx", "onnx-int8"):
        raise PoiseError(f"--int8 contradicts --engine {engine}", do="give one of them")
    if out.exists():
        raise PoiseError("already exists", where=str(out), do="choose another folder")
    chosen: Engine = "onnx-int8" if int8 else "torch-fp32" if engine in ("torch", "auto") else engine  # type: ignore[assignment]
    measured = None
    if engine == "auto":
        table = _measured(guard, threads, 20)
        measured = record(table, threads)
        chosen = best(table)[128, 1]  # type: ignore[assignment]
        typer.echo("\n".join([processor(), *lines(table)]))
    check = export_guard(guard, out, chosen, measured=measured)
    typer.echo(describe(check))
    typer.echo(f"{chosen}: {out}")


@app.command()
def bench(
    guard: Guard,
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Calls of an engine in a use; slow ones get fewer.")] = 20,
) -> None:
    """Time every engine on this processor: 128 and 512 tokens, one text and 32 at once, from text to verdict."""
    from poise.guard.fast.bench import lines, processor

    table = _measured(guard, threads, rounds)
    typer.echo("\n".join([f"{processor()}, {threads} threads", *lines(table)]))


def _measured(guard: Path, threads: int, rounds: int) -> list[Timing]:
    from poise.guard.fast.bench import bench_guard
    from poise.pipeline import progress

    with (
        tempfile.TemporaryDirectory(prefix="poise-") as work,
        progress(iter(()), unit="calls", what="measuring") as bar,
    ):
        return bench_guard(guard, Path(work), threads=threads, rounds=rounds, on_call=lambda: bar.update(1))


@app.command()
def calibrate(
    guard: Annotated[Path, typer.Argument(metavar="GUARD", help="A guard, trained or exported, or starter.")],
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="Labelled tables; rows that say test are left out.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new guard.")],
    method: Annotated[
        Literal["platt", "isotonic", "auto"],
        typer.Option(help="auto: for each head the one with the lower loss on rows that it was not fitted on."),
    ] = "auto",
    false_positive_rate: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Share of harmless rows that a threshold lets be flagged.")
    ] = 0.05,
    block_at: Annotated[
        Literal["minor", "moderate", "severe"] | None,
        typer.Option(help="The level from which a text is blocked; without it whatever is unsafe."),
    ] = None,
) -> None:
    """Fit probabilities and thresholds anew on your labelled tables; writes a copy of the guard, with curves."""
    from poise.data.tables import open_tables
    from poise.guard.fast.opening import open_guard
    from poise.guard.fit.recalibration import recalibrate
    from poise.harm import Severity
    from poise.pipeline import progress

    if out.exists():
        raise PoiseError("already exists", where=str(out), do="choose another folder")
    opened = open_tables(tables)
    with progress(iter(()), unit="texts", what="judging") as bar:
        told = recalibrate(
            open_guard(guard),
            opened,
            out,
            method=method,
            rate=false_positive_rate,
            block_at=None if block_at is None else Severity.parse(block_at),
            on_rows=bar.update,
        )
    typer.echo(f"{'head':10s} {'rows':>6s} {'with':>6s} {'method':9s} {'ECE':>6s} {'was':>6s} {'threshold':>9s}")
    for head in told["heads"]:
        typer.echo(
            f"{head['head']:10s} {head['n']:6d} {head['positive']:6d} {head['method']:9s} {head['after']['ece']:6.3f} "
            f"{head['before']['ece']:6.3f} {head['threshold']:9.4f}"
        )
    if told["kept"]:
        typer.echo(f"not fitted, fewer than {told['least']} rows of a kind: {', '.join(told['kept'])}")
    if told["mute"]:
        typer.echo(f"flags none of its harmful rows: {', '.join(told['mute'])}; try --method platt, or a higher rate")
    typer.echo(f"guard: {out}")
