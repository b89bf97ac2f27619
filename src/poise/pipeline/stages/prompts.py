"""Stage `prompts`: our seeds, plus new prompts for the emptiest cells written by the local model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from poise.data import PromptRow
from poise.data.rows import Split
from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, counts_by, model_source, write_corpus


class PromptSettings(Settings):
    """How many new prompts to write, and the test share of prompts."""

    cells: int = Field(57, ge=0, le=57, description="how many of the emptiest cells get new prompts")
    per_cell: int = Field(1, ge=0, description="new prompts wanted in each")
    tries: int = Field(2, ge=1, description="continuations sampled for each cell")
    temperature: float = Field(0.9, ge=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_new_tokens: int = Field(40, ge=8)
    near_duplicate: float = Field(0.6, gt=0, le=1, description="Jaccard similarity from which a prompt is dropped")
    test_share: float = Field(0.25, ge=0, lt=1, description="of the new prompts; the seeds' split is fixed")


def run(ctx: StageContext, settings: PromptSettings) -> dict[str, Any]:
    """Write `corpus/`: seeds with their responses and judgements, and the new prompts."""
    from poise.data import load_seeds, merge, split_by_prompt, with_splits
    from poise.data.corpus import Corpus
    from poise.guard.shipped import seed_splits

    seeds = with_splits(load_seeds(), seed_splits())
    new, dropped = _new_prompts(ctx, settings, seeds) if settings.cells and settings.per_cell else ([], {})
    fresh = Corpus(prompts=new, dropped={f"prompts: {k}": n for k, n in dropped.items() if n})
    splits = split_by_prompt([*seeds.prompts, *new], settings.test_share, ctx.seed)
    splits |= _beside_seeds(seeds.prompts, new)
    corpus = merge([seeds, with_splits(fresh, splits)])
    ctx.log(f"{len(seeds.prompts)} seeds, {len(new)} new prompts; dropped {counts_by(dropped)}")
    return {**write_corpus(ctx, corpus), "new_prompts": len(new), "dropped": dropped}


def _beside_seeds(seeds: Sequence[PromptRow], new: Sequence[PromptRow]) -> dict[str, Split]:
    """The split of each new prompt that is a near-duplicate of a seed: the seed's, which is fixed."""
    from poise.data import clusters

    found = clusters([row.prompt for row in (*seeds, *new)]).tolist()
    fixed = {cluster: row.split for cluster, row in zip(found, seeds, strict=False)}
    return {row.id: fixed[c] for c, row in zip(found[len(seeds) :], new, strict=True) if c in fixed}


def _new_prompts(ctx: StageContext, settings: PromptSettings, seeds: Any) -> Any:
    from poise.collect import emptiest_cells, write_prompts
    from poise.data import Sampling
    from poise.models.local import LocalEndpoint
    from poise.models.trunk import Trunk

    endpoint = LocalEndpoint(Trunk(model_source(ctx, "policy")), ctx.models["policy"])
    cells = emptiest_cells(seeds.prompts, settings.cells)
    sampling = Sampling(temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens)
    with ctx.progress(len(cells) * settings.tries, unit="prompts", what="writing prompts") as bar:
        return write_prompts(
            endpoint,
            [p for p in seeds.prompts if p.split == "train"],
            seeds.prompts,
            cells,
            per_cell=settings.per_cell,
            tries=settings.tries,
            sampling=sampling,
            near_duplicate=settings.near_duplicate,
            seed=ctx.seed,
            on_rows=bar.update,
        )
