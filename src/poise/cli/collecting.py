"""What the commands of `poise collect` share: a plan's models as endpoints on one store, its seeds and its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from poise.cli import endpoints as ends
from poise.errors import PoiseError

if TYPE_CHECKING:
    from poise.collect.plan import ModelSpec, PlanHead, PromptPlan, ResponsePlan
    from poise.data.records import PromptRecord
    from poise.data.rows import PromptRow
    from poise.llm import Endpoint
    from poise.llm.budget import Budget
    from poise.llm.dry import DryEndpoint
    from poise.llm.store import ReplyStore


def read_plan(path: Path, overrides: list[str] | None) -> tuple[PlanHead, dict[str, Any]]:
    """Head and sections of a plan; every model that a section names must be there.

    Raises:
        PoiseError: what is wrong with the file, one line for each problem.
    """
    from poise.collect.plan import PlanHead, PromptPlan, ResponsePlan
    from poise.pipeline.recipe import read_sections

    sections: Mapping[str, Any] = {"prompts": PromptPlan, "responses": ResponsePlan}
    head, found = read_sections(path, PlanHead, sections, overrides or [])
    named = {source.model for source in getattr(found.get("prompts"), "sources", {}).values() if source.model}
    named |= {responder.model for responder in getattr(found.get("responses"), "responders", {}).values()}
    if missing := sorted(named - set(head.models)):
        raise PoiseError(
            f"no model {missing[0]!r} under models", where=str(path), do=f"name one of {', '.join(head.models)}"
        )
    return head, found


def is_plan(path: Path) -> bool:
    """Whether a YAML file is a plan and no recipe: its models or its sections are those of one."""
    from poise.pipeline.yamlfile import parse, read_text

    told = parse(read_text(path), str(path)).value
    sections = [told.get(name) for name in ("prompts", "responses")] if isinstance(told, dict) else []
    return any(isinstance(part, dict) and {"sources", "responders"} & set(part) for part in sections)


def is_guard_plan(path: Path) -> bool:
    """Whether a YAML file is a plan of `poise guard train`: it names sets."""
    from poise.pipeline.yamlfile import parse, read_text

    told = parse(read_text(path), str(path)).value
    data = told.get("data") if isinstance(told, dict) else None
    return isinstance(data, dict) and "sets" in data


def section_of(sections: Mapping[str, Any], name: str, path: Path) -> Any:
    """A section that the command needs.

    Raises:
        PoiseError: the plan has none.
    """
    if name not in sections:
        raise PoiseError(f"has no section {name!r}", where=str(path), do=f"add `{name}:` to the plan")
    return sections[name]


@contextmanager
def opened(store: Path, *, keep: bool) -> Iterator[ReplyStore]:
    """The store of replies; without `keep` one that is not there is not made."""
    import tempfile

    from poise.llm.store import ReplyStore

    if keep or store.exists():
        with ReplyStore(store) as found:
            yield found
        return
    with tempfile.TemporaryDirectory(prefix="poise-") as folder, ReplyStore(Path(folder) / "replies") as found:
        yield found


def make_endpoints(head: PlanHead, wanted: set[str], store: ReplyStore, budget: Budget) -> dict[str, Endpoint]:
    """The models wanted, each behind the store; a model in this process is loaded once, whatever its names."""
    loaded: dict[str, Any] = {}
    return {name: _endpoint(spec, store, budget, loaded) for name, spec in head.models.items() if name in wanted}


def _endpoint(spec: ModelSpec, store: ReplyStore, budget: Budget, loaded: dict[str, Any]) -> Endpoint:
    from poise.llm.remote import RemoteEndpoint

    if spec.endpoints:
        lanes = ends.make_lanes(
            spec.endpoints,
            key_env=[spec.key_env] if spec.key_env else None,
            key_file=[Path(spec.key_file)] if spec.key_file else None,
            concurrency=spec.concurrency,
            rpm=spec.requests_per_minute,
            tpm=spec.tokens_per_minute,
            timeout_s=spec.timeout_s,
        )
        return RemoteEndpoint(lanes, spec.model, store=store, budget=budget)
    from poise.llm.stored import StoredEndpoint
    from poise.models.bundled import resolve
    from poise.models.local import LocalEndpoint
    from poise.models.trunk import Trunk

    trunk = loaded.get(spec.model) or loaded.setdefault(spec.model, Trunk(resolve(spec.model)))
    inner = LocalEndpoint(trunk, spec.model, batch_size=spec.batch_size)
    return StoredEndpoint(inner, store, spec.batch_size, _key(spec))


def _key(spec: ModelSpec) -> str:
    from poise.models.fingerprint import with_weights

    return spec.model if spec.endpoints else with_weights(spec.model)


def dry_endpoints(head: PlanHead, wanted: set[str], store: ReplyStore, budget: Budget) -> dict[str, DryEndpoint]:
    """Stand-ins that count."""
    from poise.llm.dry import DryEndpoint

    keys = {name: _key(spec) for name, spec in head.models.items() if name in wanted}
    prices = {
        key: budget.prices[model] for name, key in keys.items() if (model := head.models[name].model) in budget.prices
    }
    return {name: DryEndpoint(key, store, prices) for name, key in keys.items()}


def show_estimates(found: Mapping[str, DryEndpoint]) -> None:
    """Print what each model would be asked."""
    for name, endpoint in found.items():
        typer.echo(f"{name}: ", nl=False)
        ends.show_estimate(endpoint.estimate)


def seeds_to_show() -> tuple[list[PromptRow], list[str]]:
    """Our own prompts that may be shown to a model, and those of the test split, which no new prompt may be near to."""
    from poise.data import load_seeds, with_splits
    from poise.guard.shipped import seed_splits

    rows = with_splits(load_seeds(), seed_splits()).prompts
    return [row for row in rows if row.split == "train"], [row.prompt for row in rows if row.split == "test"]


def imports_of(plan: PromptPlan, base: Path, seeds: list[PromptRow]) -> dict[str, Iterator[PromptRecord]]:
    """Source name -> rows of its tables; a relative folder counts from the plan's own."""
    found: dict[str, Iterator[PromptRecord]] = {}
    for name, source in plan.sources.items():
        if source.tables is not None:
            found[name] = (
                iter(map(_seed_record, seeds)) if source.tables == "seeds" else prompts_of(base / source.tables)
            )
    return found


def _seed_record(row: PromptRow) -> PromptRecord:
    from poise.data.records import PromptRecord

    return PromptRecord(
        prompt=row.prompt,
        kind=row.kind,
        category=row.category,
        severity=row.severity,
        dataset=row.provenance.source,
        licence=row.provenance.licence,
        source_id=row.id,
        split=row.split,
        language="en",
    )


def prompts_of(folder: Path) -> Iterator[PromptRecord]:
    """The prompts of a folder of tables.

    Raises:
        PoiseError: it holds none.
    """
    from poise.data.records import PromptRecord
    from poise.data.tables import open_tables

    tables = open_tables(folder)
    if "prompt" not in tables:
        raise PoiseError("holds no prompts (data/prompt)", where=str(folder), do="read a set of prompts into it first")
    return (record for record in tables["prompt"].records() if isinstance(record, PromptRecord))


def texts_to_avoid(plan: PromptPlan, base: Path) -> list[str]:
    """All conversations of the folders that the plan says to keep away from."""
    from poise.data.keys import distinct_conversations
    from poise.data.tables import open_tables

    return [text for folder in plan.avoid for text in distinct_conversations(open_tables(base / folder))]


def similarity_of(plan: ResponsePlan) -> Any:
    """How alike texts are, as the plan says."""
    from poise.collect.diversity import embedding_similarity, n_gram_similarity

    if plan.diversity == "n-gram":
        return n_gram_similarity
    from poise.models.bundled import resolve
    from poise.models.encoder import Encoder

    encoder = Encoder(resolve(plan.encoder))
    return embedding_similarity(lambda texts: encoder.embed(list(texts)).numpy())
