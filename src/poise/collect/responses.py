"""Several responses to each prompt: one at default decoding, one hotter, one from a helpful-only persona.

PKU-SafeRLHF takes one response at default decoding and more at a raised temperature from several models. On one small
model the personas play the part of the models; each response says which persona, sampling and seed made it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from poise.collect.quality import garbled
from poise.data import PairRow, PromptRow, Provenance, QARow, Sampling, text_id, uniform_seed
from poise.data.corpus import pair_row
from poise.llm import Completion, Messages


class Persona(BaseModel):
    """A way to ask the model: a system message and how to sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    system: str
    temperature: float
    top_p: float = 1.0


class ResponseRequest(NamedTuple):
    """One response to be sampled."""

    prompt: PromptRow
    persona: Persona
    messages: Messages
    sampling: Sampling


def plan_responses(
    prompts: Sequence[PromptRow], personas: Sequence[Persona], max_new_tokens: int, seed: int
) -> list[ResponseRequest]:
    """Every prompt with every persona, sorted by length so that a batch holds little padding."""
    requests = []
    for prompt in prompts:
        for persona in personas:
            messages = [{"role": "system", "content": persona.system}, {"role": "user", "content": prompt.prompt}]
            sampling = Sampling(
                temperature=persona.temperature,
                top_p=persona.top_p,
                max_new_tokens=max_new_tokens,
                seed=uniform_seed(seed, "responses", prompt.id, persona.name),
            )
            requests.append(ResponseRequest(prompt, persona, messages, sampling))
    return sorted(requests, key=lambda r: (len(r.messages[0]["content"]) + len(r.prompt.prompt), r.prompt.id))


def response_rows(
    requests: Sequence[ResponseRequest], replies: Sequence[Completion], model: str
) -> tuple[list[QARow], list[PairRow], Counter[str]]:
    """QA rows and all pairs within a prompt; missing, garbled and repeated responses are counted by reason."""
    dropped: Counter[str] = Counter()
    by_prompt: dict[str, list[QARow]] = defaultdict(list)
    for request, reply in zip(requests, replies, strict=True):
        text = reply.text.strip()
        reason = reply.reason or garbled(text)
        if reason is None and any(row.response == text for row in by_prompt[request.prompt.id]):
            reason = "same-text"
        if reason is not None:
            dropped[reason] += 1
            continue
        by_prompt[request.prompt.id].append(_row(request, text, model))
    rows = [row for members in by_prompt.values() for row in members]
    pairs = [pair_row(a, b) for members in by_prompt.values() for a, b in combinations(members, 2)]
    return rows, pairs, dropped


def _row(request: ResponseRequest, text: str, model: str) -> QARow:
    provenance = Provenance(
        source=model,
        persona=request.persona.name,
        sampling=request.sampling,
        parents=(request.prompt.id,),
        licence="Apache-2.0",
    )
    return QARow(
        id=text_id("qa", request.prompt.prompt, text),
        prompt_id=request.prompt.id,
        prompt=request.prompt.prompt,
        response=text,
        split=request.prompt.split,
        provenance=provenance,
    )
