"""Several answers of several models to each prompt: one at default decoding, others hotter, the most diverse kept.

Every request is a function of (seed, prompt, responder, number), so stored replies are found again. Dropped and
counted: no answer, garbled text, another language, the same text twice, answers too much alike. A refusal is an answer.
An answer cut by its length is kept and says so.

Source: PKU-SafeRLHF (one answer at default decoding and about ten hotter ones of each model, diverse ones kept).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import NamedTuple

from poise.collect.diversity import Similarity, most_diverse, n_gram_similarity
from poise.collect.plan import PersonaSpec, Responder, ResponsePlan
from poise.collect.quality import garbled, other_language
from poise.data import Sampling, text_id, uniform_seed
from poise.data.records import DualRecord, PromptRecord, QARecord
from poise.llm import Completion, Endpoint, Messages


class Question(NamedTuple):
    """One answer to be asked for. Args: `number` 0 is the one at default decoding."""

    prompt: PromptRecord
    responder: str
    number: int
    persona: PersonaSpec
    messages: Messages
    sampling: Sampling


class Answered(NamedTuple):
    """What a batch of prompts gave: rows, unlabelled pairs of them, and reason -> answers dropped."""

    rows: list[QARecord]
    pairs: list[DualRecord]
    dropped: Counter[str]


def prompt_id(prompt: PromptRecord) -> str:
    """What a prompt and the conversation before it are known by."""
    return text_id("p", *(turn.content for turn in prompt.turns), prompt.prompt)


def questions(prompt: PromptRecord, name: str, responder: Responder, seed: int) -> Iterator[Question]:
    """All that a responder is asked about one prompt."""
    own = prompt_id(prompt)
    for number in range(1 + responder.hotter):
        persona = responder.personas[max(0, number - 1) % len(responder.personas)]
        said: Messages = [] if persona.system is None else [{"role": "system", "content": persona.system}]
        said += [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
        sampling = Sampling(
            temperature=responder.hot_temperature if number else responder.temperature,
            top_p=responder.hot_top_p if number else responder.top_p,
            max_new_tokens=responder.max_new_tokens,
            seed=uniform_seed(seed, "answer", own, name, str(number)),
        )
        said.append({"role": "user", "content": prompt.prompt})
        yield Question(prompt, name, number, persona, said, sampling)


def collect_answers(
    prompts: Iterable[PromptRecord],
    plan: ResponsePlan,
    endpoints: Mapping[str, Endpoint],
    *,
    seed: int = 0,
    similarity: Callable[[Sequence[str]], Similarity] = n_gram_similarity,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> Iterator[Answered]:
    """Answers of all responders, so many prompts at a time.

    Args:
        endpoints: model name of the plan -> who answers.
        similarity: of texts, shape (N, N); see `poise.collect.diversity`.
        on_rows: hears of replies.
    """
    waiting = iter(prompts)
    while part := list(islice(waiting, plan.prompts_at_a_time)):
        found: dict[int, list[QARecord]] = defaultdict(list)
        dropped: Counter[str] = Counter()
        for name, responder in plan.responders.items():
            asked = [q for prompt in part for q in questions(prompt, name, responder, seed)]
            endpoint = endpoints[responder.model]
            replies = endpoint.chat([q.messages for q in asked], [q.sampling for q in asked], on_rows)
            each = 1 + responder.hotter
            for index in range(len(part)):
                own = slice(index * each, (index + 1) * each)
                found[index] += _kept(asked[own], replies[own], endpoint.name, plan, similarity, dropped)
        rows = [row for index in range(len(part)) for row in found[index]]
        pairs = [pair for index in range(len(part)) for pair in _pairs(found[index], plan.pairs, seed)]
        yield Answered(rows, pairs, dropped)


def _kept(
    asked: Sequence[Question],
    replies: Sequence[Completion],
    model: str,
    plan: ResponsePlan,
    similarity: Callable[[Sequence[str]], Similarity],
    dropped: Counter[str],
) -> list[QARecord]:
    """The answers of one responder to one prompt that survive, in the order of choice."""
    good: dict[str, QARecord] = {}
    for question, reply in zip(asked, replies, strict=True):
        text = reply.text.strip()
        reason = f"no answer ({reply.reason})" if reply.reason else unusable(text, plan.languages)
        if reason is None and text in good:
            reason = "same text"
        if reason is not None:
            dropped[f"{question.responder}: {reason}"] += 1
            continue
        good[text] = _row(question, text, reply.finished, model)
    rows = list(good.values())
    if len(rows) < 2:
        return rows
    chosen = most_diverse(similarity(list(good)), plan.keep, plan.most_alike)
    if left := len(rows) - len(chosen):
        dropped[f"{asked[0].responder}: less diverse"] += left
    return [rows[index] for index in chosen]


def unusable(text: str, languages: tuple[str, ...]) -> str | None:
    """Why an answer is dropped, None when it is fine; short answers are answers."""
    if not text:
        return "no answer"
    reason = garbled(text)
    if reason is not None and reason != "too-short":
        return f"garbled ({reason})"
    return "another language" if other_language(text, languages) else None


def _row(question: Question, text: str, finished: bool, model: str) -> QARecord:
    prompt = question.prompt
    return QARecord(
        prompt=prompt.prompt,
        turns=prompt.turns,
        response=text,
        prompt_source=prompt.source,
        response_source=question.responder,
        split=prompt.split,
        language=prompt.language,
        licence=prompt.licence,
        source_id=text_id("qa", prompt_id(prompt), text),
        provenance={
            "model": model,
            "persona": question.persona.name,
            "sampling": question.sampling.model_dump(mode="json"),
            "number": question.number,
            "finished": finished,
            "parents": [prompt_id(prompt)],
        },
    )


def _pairs(rows: Sequence[QARecord], most: int, seed: int) -> list[DualRecord]:
    """Unlabelled pairs for ranking; of too many those of chance, each response in either place."""
    every = sorted(combinations(rows, 2), key=lambda pair: uniform_seed(seed, "pair", *_ids(pair)))[:most]
    return [_pair(*(pair if uniform_seed(seed, "order", *_ids(pair)) % 2 else pair[::-1])) for pair in every]


def _ids(pair: tuple[QARecord, QARecord]) -> tuple[str, str]:
    return pair[0].source_id or "", pair[1].source_id or ""


def _pair(first: QARecord, second: QARecord) -> DualRecord:
    return DualRecord(
        prompt=first.prompt,
        turns=first.turns,
        responses=(first.response, second.response),
        prompt_source=first.prompt_source,
        response_sources=(first.response_source, second.response_source),
        split=first.split,
        language=first.language,
        licence=first.licence,
        source_id=text_id("pair", *_ids((first, second))),
    )
