"""`poise guard judge` and `poise guard list`: tables judged by the guards of others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from poise.cli import endpoints as ends
from poise.cli.guard import app
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.guard.others import Family
    from poise.llm.store import ReplyStore


@app.command("list")
def list_guards() -> None:
    """The guards of others that can be asked, and where their formats are from."""
    from poise.guard.others import FAMILIES

    for family in FAMILIES.values():
        categories = family.taxonomy or "no crosswalk"
        typer.echo(f"{family.name:21s} {family.title}; categories: {categories}; source: {family.source}")


@app.command()
def judge(
    tables: Annotated[Path, typer.Argument(metavar="TABLES", help="A folder of tables.")],
    guard: Annotated[str, typer.Option("--guard", metavar="NAME", help="A guard of `poise guard list`.")],
    endpoint: ends.Endpoints,
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Name that the server knows.")],
    store: ends.Store,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the rows and judgements go.")],
    tiers: Annotated[
        Literal["strict", "loose"], typer.Option(help="Whether a middle tier (Controversial) counts as unsafe.")
    ] = "strict",
    prompt: Annotated[
        Path | None, typer.Option("--prompt", metavar="FILE", help="The owner's prompt, with {prompt} and {response}.")
    ] = None,
    key_env: ends.KeyEnv = None,
    key_file: ends.KeyFile = None,
    concurrency: ends.Concurrency = ends.CONCURRENCY,
    rpm: ends.Rpm = None,
    tpm: ends.Tpm = None,
    timeout: ends.Timeout = ends.TIMEOUT_S,
    budget_requests: ends.BudgetRequests = None,
    budget_tokens: ends.BudgetTokens = None,
    budget_cost: ends.BudgetCost = None,
    price_prompt: ends.PricePrompt = None,
    price_completion: ends.PriceCompletion = None,
    dry_run: ends.DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
) -> None:
    """Safe or unsafe for every response, and categories and severity where the guard tells them."""
    from poise.annotate.ai.judging import judge_tables
    from poise.data.tables import open_tables
    from poise.guard.others import EndpointGuard, GuardTask, client_of
    from poise.llm.budget import dry_run as estimate
    from poise.pipeline import progress

    family = _with_prompt(_family(guard), prompt)
    budget = ends.make_budget(
        [model],
        requests=budget_requests,
        tokens=budget_tokens,
        cost=budget_cost,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    lanes = ends.make_lanes(
        endpoint,
        key_env=key_env,
        key_file=key_file,
        concurrency=concurrency,
        rpm=rpm,
        tpm=tpm,
        timeout_s=timeout,
        client=client_of(family),
    )
    found, task = open_tables(tables), GuardTask(family)
    with _opened(store, keep=not dry_run) as replies:
        rater = EndpointGuard(family, model, lanes, replies, strict=tiers == "strict", budget=budget)
        if dry_run:
            ends.show_estimate(estimate(task.requests(rater, found), replies, budget.prices))
            return
        with progress(iter(()), unit="answers", what="asking") as bar:
            made, report = judge_tables(found, out, [rater], task, replace=force, on_end=lambda *_: bar.update(1))
    typer.echo(f"{out}: {made['judgements'].rows:,} judgements")
    _show(report["raters"][0])


def _family(name: str) -> Family:
    from difflib import get_close_matches

    from poise.guard.others import FAMILIES

    if name not in FAMILIES:
        near = get_close_matches(name, FAMILIES, n=1)
        raise PoiseError(
            f"{name!r} is no guard",
            where="--guard",
            do=f"did you mean {near[0]!r}?" if near else "see poise guard list",
        )
    return FAMILIES[name]


def _with_prompt(family: Family, prompt: Path | None) -> Family:
    """The guard asked by the user's own prompt, where there is one."""
    from dataclasses import replace

    if prompt is None:
        return family
    if family.asks_with is None:
        raise PoiseError(f"{family.name} takes no prompt of yours", where="--prompt", do="leave it out")
    try:
        return replace(family, ask=family.asks_with(prompt.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise PoiseError(f"can't be read ({type(error).__name__})", where=str(prompt), do="name a text file") from error


def _show(report: dict[str, Any]) -> None:
    counts = ", ".join(f"{word} {report['verdicts'].get(word, 0):,}" for word in ("unsafe", "safe", "unjudged"))
    typer.echo(f"{report['model']} as {report['guard']}: {counts}")
    for reason, count in report["unjudged"].items():
        typer.echo(f"    unjudged, {reason}: {count:,}")


@contextmanager
def _opened(path: Path, *, keep: bool) -> Iterator[ReplyStore]:
    """The store; a dry run makes no file."""
    from poise.llm.store import ReplyStore

    if keep or path.exists():
        with ReplyStore(path) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="poise-") as folder, ReplyStore(Path(folder) / "replies") as store:
        yield store
