"""`poise collect`: prompts for a grid of categories and severities, and several answers to each prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poise.cli import collecting as parts
from poise.cli import endpoints as ends
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.collect.grow import Grown

app = typer.Typer(help="Prompts and answers from models.", no_args_is_help=True, rich_markup_mode=None)

Plan = Annotated[Path, typer.Argument(metavar="PLAN", help="YAML file, see recipes/.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of tables to write.")]
Store = Annotated[
    Path | None, typer.Option("--store", metavar="FILE", help="Replies that are kept; default: beside the folder.")
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the plan.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier result.")]


def _store(store: Path | None, out: Path) -> Path:
    return store or out.with_name(out.name + ".replies.sqlite")


@app.command()
def prompts(
    plan: Plan,
    out: Out,
    store: Store = None,
    overrides: Set = None,
    budget_requests: ends.BudgetRequests = None,
    budget_tokens: ends.BudgetTokens = None,
    budget_cost: ends.BudgetCost = None,
    price_prompt: ends.PricePrompt = None,
    price_completion: ends.PriceCompletion = None,
    dry_run: ends.DryRun = False,
    force: Force = False,
) -> None:
    """Fill the grid: import, then let models write for the emptiest cells. A dry run counts the first round."""
    from poise.collect.grow import grow
    from poise.data.folders import refuse_used
    from poise.pipeline import progress

    head, sections = parts.read_plan(plan, overrides)
    settings = parts.section_of(sections, "prompts", plan)
    models = {source.model for source in settings.sources.values() if source.model}
    budget = ends.make_budget(
        [spec.model for spec in head.models.values()],
        requests=budget_requests,
        tokens=budget_tokens,
        cost=budget_cost,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    if not dry_run:
        refuse_used(out, force)
    seeds, held_out = parts.seeds_to_show()
    imports = parts.imports_of(settings, plan.parent, seeds)
    avoid = [*held_out, *parts.texts_to_avoid(settings, plan.parent)]
    with parts.opened(_store(store, out), keep=not dry_run) as replies:
        if dry_run:
            counting = parts.dry_endpoints(head, models, replies, budget)
            first = settings.model_copy(update={"rounds": 1})
            grow(first, counting, imports, seeds, avoid=avoid, seed=head.seed)
            parts.show_estimates(counting)
            return
        endpoints = parts.make_endpoints(head, models, replies, budget)
        with progress(iter(()), unit="replies", what="writing prompts") as bar:
            grown = grow(settings, endpoints, imports, seeds, avoid=avoid, seed=head.seed, on_rows=bar.update)
    _write_prompts(grown, out, {"name": "collect prompts", "plan": head.name, "seed": head.seed}, force)
    for line in _grid_lines(grown):
        typer.echo(line)
    if not grown.grid.full:
        typer.echo(f"not full after {grown.rounds} rounds: more rounds, other sources, or smaller quotas", err=True)
        raise typer.Exit(4)


def _write_prompts(grown: Grown, out: Path, step: dict[str, Any], force: bool) -> None:
    from poise.collect.lineage import FILE, write_lineage
    from poise.data.folders import write_json
    from poise.data.tables import TableWriter

    if not grown.prompts:
        raise PoiseError(
            "no prompt was kept: " + ", ".join(f"{why} ({n})" for why, n in grown.dropped.most_common(5)),
            where=str(out),
            do="look at what the models say, or let more rounds run",
            exit_code=4,
        )
    with TableWriter(out, step, replace=force) as writer:
        for record in grown.prompts:
            writer.add(record)
        write_lineage(writer.parts / FILE, grown.nodes, [record.source_id or "" for record in grown.prompts])
        found = {"grid": grown.grid.table(), "dropped": dict(grown.dropped.most_common()), "rounds": grown.rounds}
        write_json(writer.parts / "collect.json", found)


def _grid_lines(grown: Grown) -> list[str]:
    sources = grown.grid.sources
    lines = [f"{'cell':14s} {'quota':>6s} {'have':>6s}  " + "  ".join(f"{name:>12s}" for name in sources)]
    lines += [
        f"{row['cell']:14} {row['quota']:6} {row['have']:6}  " + "  ".join(f"{row[name]:12}" for name in sources)
        for row in grown.grid.table()
    ]
    lines.append(f"{len(grown.prompts):,} prompts in {grown.rounds} rounds")
    return [*lines, *(f"    dropped, {why}: {count:,}" for why, count in grown.dropped.most_common())]


@app.command()
def responses(
    plan: Plan,
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Folder of tables with prompts.")],
    out: Out,
    store: Store = None,
    overrides: Set = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many prompts, from the first.")] = None,
    batch_out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what is missing as OpenAI Batch files and ask nothing."),
    ] = None,
    budget_requests: ends.BudgetRequests = None,
    budget_tokens: ends.BudgetTokens = None,
    budget_cost: ends.BudgetCost = None,
    price_prompt: ends.PricePrompt = None,
    price_completion: ends.PriceCompletion = None,
    dry_run: ends.DryRun = False,
    force: Force = False,
) -> None:
    """Several answers of each responder to each prompt, the most diverse kept."""
    from itertools import islice

    from poise.collect.answers import collect_answers
    from poise.data.folders import refuse_used
    from poise.pipeline import progress

    head, sections = parts.read_plan(plan, overrides)
    settings = parts.section_of(sections, "responses", plan)
    models = {responder.model for responder in settings.responders.values()}
    budget = ends.make_budget(
        [spec.model for spec in head.models.values()],
        requests=budget_requests,
        tokens=budget_tokens,
        cost=budget_cost,
        price_prompt=price_prompt,
        price_completion=price_completion,
    )
    if not dry_run and batch_out is None:
        refuse_used(out, force)
    rows = list(islice(parts.prompts_of(prompts), limit))
    with parts.opened(_store(store, out), keep=not dry_run) as replies:
        if dry_run:
            counting = parts.dry_endpoints(head, models, replies, budget)
            for _ in collect_answers(rows, settings, counting, seed=head.seed):
                pass
            parts.show_estimates(counting)
            return
        if batch_out is not None:
            _batch_out(head, settings, rows, replies, batch_out)
            return
        endpoints = parts.make_endpoints(head, models, replies, budget)
        total = len(rows) * sum(1 + responder.hotter for responder in settings.responders.values())
        with progress(total, unit="answers", what="answering") as bar:
            found = collect_answers(
                rows,
                settings,
                endpoints,
                seed=head.seed,
                similarity=parts.similarity_of(settings),
                on_rows=bar.update,
            )
            _write_answers(found, rows, out, {"name": "collect responses", "plan": head.name, "seed": head.seed}, force)


def _batch_out(head: Any, settings: Any, rows: Any, replies: Any, folder: Path) -> None:
    from poise.collect.answers import questions
    from poise.llm.batch_files import write_batches
    from poise.llm.stored import said, to_request

    local = [name for name, responder in settings.responders.items() if not head.models[responder.model].endpoints]
    if len(local) == len(settings.responders):
        raise PoiseError(
            "no responder is behind a server, so there is nothing to send",
            where="--batch-out",
            do="give a model `endpoints`, or leave --batch-out out and all are asked in this process",
        )
    asked = (
        to_request(head.models[responder.model].model, said(question.messages), question.sampling)
        for prompt in rows
        for name, responder in settings.responders.items()
        if name not in local
        for question in questions(prompt, name, responder, head.seed)
    )
    files = write_batches(asked, replies, folder)
    for file in files:
        typer.echo(f"{file.path}: {file.rows:,} requests to {file.model}")
    if not files:
        typer.echo("nothing is missing")
    if local:
        typer.echo(f"left to this process, when the command is run without --batch-out: {', '.join(local)}")


def _write_answers(found: Any, prompts: Any, out: Path, step: dict[str, Any], force: bool) -> None:
    from collections import Counter

    from poise.data.folders import write_json
    from poise.data.tables import TableWriter

    dropped, kept = Counter[str](), Counter[str]()
    with TableWriter(out, step, replace=force) as writer:
        for record in prompts:
            writer.add(record)
        for part in found:
            dropped += part.dropped
            for row in part.rows:
                kept[row.response_source or ""] += 1
                writer.add(row)
            for pair in part.pairs:
                writer.add(pair)
        if not kept:
            reasons = ", ".join(f"{why} ({n})" for why, n in dropped.most_common(5))
            raise PoiseError(f"no answer was kept: {reasons}", where=str(out), do="see to the models", exit_code=4)
        write_json(writer.parts / "collect.json", {"kept": dict(kept), "dropped": dict(dropped.most_common())})
    typer.echo(f"{out}: " + ", ".join(f"{name} {count:,}" for name, count in kept.items()))
    for why, count in dropped.most_common():
        typer.echo(f"    dropped, {why}: {count:,}")


@app.command()
def lineage(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of `poise collect prompts`.")],
    prompt: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this prompt's ancestors.")] = None,
) -> None:
    """Check that every prompt leads back to a guideline version, or show where one comes from."""
    from poise.collect.lineage import ancestors, check_lineage, read_lineage

    if prompt is not None:
        nodes = read_lineage(folder)
        if prompt not in nodes:
            raise PoiseError(f"no prompt {prompt!r}", where=str(folder), do="take an id from its column source_id")
        for depth, node, id_ in ancestors(prompt, nodes):
            told = "missing" if node is None else f"{node.operation} by {node.source}, policy {node.policy}"
            text = "" if node is None else f": {node.text[:100]!r}"
            typer.echo(f"{'  ' * depth}{id_} {told}{text}")
        return
    count, broken = check_lineage(folder)
    typer.echo(f"{count:,} prompts, {count - len(broken):,} lead back to a guideline version")
    for id_ in broken[:20]:
        typer.echo(f"    broken: {id_}")
    if broken:
        raise typer.Exit(4)
