"""`poise annotate`: labels and rankings by models behind endpoints.

Both verbs read a folder of tables and write a new one with the same rows and the judgements beside them. A command that
was stopped is run again: what is in the store of replies is not asked twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poise.cli import endpoints as ends
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.annotate.ai.judging import Task
    from poise.annotate.ai.rater import EndpointRater
    from poise.llm.budget import Budget
    from poise.llm.limits import Lane
    from poise.llm.store import ReplyStore

app = typer.Typer(
    help="Labels and rankings: by models behind endpoints, and the store in which all raters judge.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="TABLES", help="A folder of tables.")]
Models = Annotated[list[str], typer.Option("--model", metavar="NAME", help="Repeat it for several raters.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the rows and judgements go.")]
MaxTokens = Annotated[int, typer.Option(min=16, help="Of an answer; a longer one is unjudged.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]


@dataclass(frozen=True)
class _Judging:
    """What both verbs share."""

    models: list[str]
    lanes: list[list[Lane]]
    store: Path
    max_tokens: int
    budget: Budget

    def run(self, task: Task[EndpointRater], folder: Path, out: Path, *, force: bool, dry_run: bool) -> None:
        """Ask and write, or say what it would take."""
        from poise.annotate.ai.judging import judge_tables
        from poise.data.tables import open_tables
        from poise.llm.budget import dry_run as estimate
        from poise.pipeline import progress

        tables = open_tables(folder)
        with self._opened(keep=not dry_run) as store:
            raters = self._raters(store)
            if dry_run:
                requests = chain.from_iterable(task.requests(rater, tables) for rater in raters)
                ends.show_estimate(estimate(requests, store, self.budget.prices))
                return
            with progress(iter(()), unit="answers", what="asking") as bar:
                made, report = judge_tables(tables, out, raters, task, replace=force, on_end=lambda *_: bar.update(1))
        typer.echo(f"{out}: {made['judgements'].rows:,} judgements")
        for rater in report["raters"]:
            _show(rater)

    def _raters(self, store: ReplyStore) -> list[EndpointRater]:
        from poise.annotate.ai.rater import EndpointRater

        return [
            EndpointRater(model, lanes, store, budget=self.budget, max_tokens=self.max_tokens)
            for model, lanes in zip(self.models, self.lanes, strict=True)
        ]

    @contextmanager
    def _opened(self, *, keep: bool) -> Iterator[ReplyStore]:
        """The store; a dry run makes no file."""
        from poise.llm.store import ReplyStore

        if keep or self.store.exists():
            with ReplyStore(self.store) as store:
                yield store
            return
        with tempfile.TemporaryDirectory(prefix="poise-") as folder, ReplyStore(Path(folder) / "replies") as store:
            yield store


def _show(rater: dict[str, Any]) -> None:
    answers = ", ".join(f"{state} {count:,}" for state, count in rater["answers"].items()) or "none"
    typer.echo(f"{rater['model']}: answers {answers}")
    for reason, count in rater["unjudged"].items():
        typer.echo(f"    unjudged, {reason}: {count:,}")
    for axis, counts in rater["axes"].items():
        rates = ((name, counts[name]) for name in ("flip_rate", "first_rate"))
        told = ", ".join(
            f"{name.replace('_', ' ')} {'unknown' if rate is None else f'{rate:.3f}'}" for name, rate in rates
        )
        typer.echo(f"    {axis}: {counts['pairs']:,} pairs, {counts['by_order']:,} by the logical order, {told}")


@app.command()
def label(
    tables: Folder,
    endpoint: ends.Endpoints,
    model: Models,
    store: ends.Store,
    out: Out,
    key_env: ends.KeyEnv = None,
    key_file: ends.KeyFile = None,
    concurrency: ends.Concurrency = ends.CONCURRENCY,
    rpm: ends.Rpm = None,
    tpm: ends.Tpm = None,
    timeout: ends.Timeout = ends.TIMEOUT_S,
    max_tokens: MaxTokens = 512,
    budget_requests: ends.BudgetRequests = None,
    budget_tokens: ends.BudgetTokens = None,
    budget_cost: ends.BudgetCost = None,
    price_prompt: ends.PricePrompt = None,
    price_completion: ends.PriceCompletion = None,
    dry_run: ends.DryRun = False,
    force: Force = False,
) -> None:
    """Categories and severity of every response, by the guideline pages; unjudged is never safe."""
    from poise.annotate.ai.judging import LabelTask

    budget = ends.make_budget(
        model,
        requests=budget_requests,
        tokens=budget_tokens,
        cost=budget_cost,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    lanes = [
        ends.make_lanes(
            endpoint,
            key_env=key_env,
            key_file=key_file,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            timeout_s=timeout,
        )
        for _ in model
    ]
    _Judging(model, lanes, store, max_tokens, budget).run(LabelTask(), tables, out, force=force, dry_run=dry_run)


@app.command()
def rank(
    tables: Folder,
    endpoint: ends.Endpoints,
    model: Models,
    store: ends.Store,
    out: Out,
    axes: Annotated[str, typer.Option(help="Any of better, safer, single, with commas.")] = "better,safer,single",
    flips: Annotated[
        Literal["tie", "person"], typer.Option(help="What a pair becomes whose two orders disagree.")
    ] = "tie",
    key_env: ends.KeyEnv = None,
    key_file: ends.KeyFile = None,
    concurrency: ends.Concurrency = ends.CONCURRENCY,
    rpm: ends.Rpm = None,
    tpm: ends.Tpm = None,
    timeout: ends.Timeout = ends.TIMEOUT_S,
    max_tokens: MaxTokens = 512,
    budget_requests: ends.BudgetRequests = None,
    budget_tokens: ends.BudgetTokens = None,
    budget_cost: ends.BudgetCost = None,
    price_prompt: ends.PricePrompt = None,
    price_completion: ends.PriceCompletion = None,
    dry_run: ends.DryRun = False,
    force: Force = False,
) -> None:
    """The more helpful, the less harmful and the overall better response of every pair, asked in both orders."""
    from poise.annotate.ai.judging import RankTask
    from poise.annotate.ai.rubrics import AXES

    wanted = [name.strip() for name in axes.split(",")]
    chosen = tuple(axis for axis in AXES if axis in wanted)
    if len(chosen) != len(wanted):
        raise PoiseError(f"--axes {axes}", do=f"name any of {', '.join(AXES)}, each once")
    budget = ends.make_budget(
        model,
        requests=budget_requests,
        tokens=budget_tokens,
        cost=budget_cost,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    lanes = [
        ends.make_lanes(
            endpoint,
            key_env=key_env,
            key_file=key_file,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            timeout_s=timeout,
        )
        for _ in model
    ]
    task = RankTask(chosen, flips)
    _Judging(model, lanes, store, max_tokens, budget).run(task, tables, out, force=force, dry_run=dry_run)
