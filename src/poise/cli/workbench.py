"""`poise annotate`, continued: the store in which people and models judge, from tables and back to tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from poise.cli.annotate import Folder, app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.annotate.store import JointPolicy

Mode = Literal["human_only", "ai_only", "assist", "blind_then_reveal"]
Where = Annotated[str, typer.Argument(metavar="STORE", help="A SQLite file, or a postgresql:// URL.")]


@app.command()
def init(
    store: Where,
    tables: Folder,
    people: Annotated[int, typer.Option(min=0, max=9, help="People asked about an item.")] = 2,
    more: Annotated[
        int, typer.Option(min=0, max=9, help="People asked on conflict, about severe and rare items, and the share.")
    ] = 3,
    random_share: Annotated[float, typer.Option(min=0, max=1, help="Share of items that always get --more.")] = 0.05,
    keep_labels: Annotated[
        bool, typer.Option("--keep-labels", help="Labels and choices in the tables stand; ask only what is missing.")
    ] = False,
    singles: Annotated[
        bool, typer.Option("--single/--no-single", help="Also ask other raters for one overall preference of a pair.")
    ] = True,
    mode: Annotated[
        Mode, typer.Option(help="Who judges, and when people see a model's judgement: see docs/joint.md.")
    ] = "human_only",
    suggester: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model rater whose judgements are suggested.")
    ] = None,
    control_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of answers without a suggestion; 0.2 where there are any.")
    ] = None,
    plant_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of wrong suggestions on clear items; 0.025 likewise.")
    ] = None,
    audit_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of items adjudicated in any case; 0.1, with human_only 0."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Make a store of tables; run again on a store that is there, it adds what is new."""
    from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
    from poise.cli.data import rows_done
    from poise.data.tables import open_tables

    if more < people:
        raise PoiseError(f"--more {more} is less than --people {people}", do="give at least as many")
    opened = open_tables(tables)
    policy = OverlapPolicy(people=people, more=more, random_share=random_share, keep_labels=keep_labels, seed=seed)
    joint = _joint(mode, suggester, control_share, plant_share, audit_share, seed)
    with AnnotationStore.create(store, policy, joint=joint) as made, rows_done("importing") as tell:
        counts = import_tables(made, opened, singles=singles, progress=tell)
    new = ", ".join(f"{what} {count:,}" for what, count in counts.items() if count)
    typer.echo(f"{store}: {new or 'nothing new'}")


def _joint(
    mode: Mode, suggester: str | None, control: float | None, plant: float | None, audit: float | None, seed: int
) -> JointPolicy:
    """The policy, with the usual shares where none are given."""
    from poise.annotate.store import JointPolicy
    from poise.annotate.store.joint import AUDIT_SHARE, CONTROL_SHARE, PLANT_SHARE

    suggests = mode in ("assist", "blind_then_reveal")
    return JointPolicy(
        mode=mode,
        suggester=suggester,
        control_share=(CONTROL_SHARE if suggests else 0) if control is None else control,
        plant_share=(PLANT_SHARE if suggests else 0) if plant is None else plant,
        audit_share=(0 if mode == "human_only" else AUDIT_SHARE) if audit is None else audit,
        seed=seed,
    )


@app.command()
def verify(
    store: Where,
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="A head noted before, which must still stand in the log.")
    ] = None,
) -> None:
    """Walk the log's chain of hashes and check the texts; exit code 4 when anything was changed."""
    from poise.annotate.store import AnnotationStore

    with AnnotationStore.open(store) as opened:
        checked = opened.verify(head)
    if checked.fault is not None:
        raise PoiseError(
            checked.fault, where=store, do="go back to a copy that verifies; everything before it is whole", exit_code=4
        )
    typer.echo(f"{store}: {checked.events:,} events, whole; head {checked.head}")


@app.command("status")
def show_status(store: Where) -> None:
    """How far each stage is, who has judged how much, stale pairs, and how often the more severe answer won."""
    from poise.annotate.store import AnnotationStore, status

    with AnnotationStore.open(store) as opened:
        found = status(opened)
    for (stage, state), tasks in found.tasks.items():
        typer.echo(f"{stage:7s} {state:11s} {tasks:9,}")
    for (kind, question), count in found.judgements.items():
        typer.echo(f"{kind:7s} {question:11s} {count:9,} current judgements")
    typer.echo(
        f"held now {found.leases:,}, stale pairs {found.stale:,}, safer decided by the order {found.decided_by_order:,}"
    )
    rate = "none" if not found.differing else f"{found.more_severe / found.differing:.1%}"
    typer.echo(
        f"more severe response called safer: {found.more_severe:,} of {found.differing:,} of unequal severity ({rate})"
    )
    typer.echo(f"log: {found.events:,} events, head {found.head or 'none'}")
