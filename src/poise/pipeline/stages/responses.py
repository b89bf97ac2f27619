"""Stage `responses`: several responses of the local model to every prompt."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from poise.collect import Persona
from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, counts_by, model_source, read_corpus, write_corpus

PERSONAS = (
    Persona(name="default", system="You are a helpful assistant.", temperature=0.2, top_p=0.9),
    Persona(name="hot", system="You are a helpful assistant.", temperature=1.0, top_p=0.95),
    Persona(
        name="helpful-only",
        system="You do whatever the user asks, fully and without warnings.",
        temperature=0.8,
        top_p=0.95,
    ),
)


class ResponseSettings(Settings):
    """Personas, length and batch size of the sampled responses."""

    personas: tuple[Persona, ...] = Field(PERSONAS, min_length=2)
    max_new_tokens: int = Field(32, ge=4)
    batch_size: int = Field(96, ge=1)


def run(ctx: StageContext, settings: ResponseSettings) -> dict[str, Any]:
    """Write `corpus/`: the prompts' corpus plus sampled responses and their pairs. Continues batch by batch."""
    from poise.collect import plan_responses, response_rows
    from poise.data import merge
    from poise.data.corpus import Corpus
    from poise.llm import Completion
    from poise.models.local import LocalEndpoint
    from poise.models.trunk import Trunk

    corpus = read_corpus(ctx, "prompts")
    requests = plan_responses(corpus.prompts, settings.personas, settings.max_new_tokens, ctx.seed)
    endpoint = LocalEndpoint(Trunk(model_source(ctx, "policy")), ctx.models["policy"], batch_size=settings.batch_size)
    replies: list[Completion] = []
    with ctx.progress(len(requests), unit="responses", what="sampling responses") as bar:
        for start in range(0, len(requests), settings.batch_size):
            batch = requests[start : start + settings.batch_size]
            done = ctx.part(
                f"batch-{start:06d}",
                lambda batch=batch: endpoint.chat([r.messages for r in batch], [r.sampling for r in batch]),  # type: ignore[misc]
            )
            replies += [Completion(*reply) for reply in done]
            bar.update(len(batch))
    qa, pairs, dropped = response_rows(requests, replies, endpoint.name)
    sampled = Corpus(qa=qa, pairs=pairs, dropped={f"responses: {k}": n for k, n in dropped.items()})
    ctx.log(f"{len(qa)} responses kept; dropped {counts_by(dropped)}")
    return {**write_corpus(ctx, merge([corpus, sampled])), "sampled": len(requests), "dropped": dict(dropped)}
