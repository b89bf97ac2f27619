"""Ordinary answers to the requests of the training sets, written by a small language model.

Most sets hold requests alone, or answers to jailbreaks: what a guard reads every day, a plain answer to a plain
request, is rare in them, and nearly always safe. So a model of this machine writes two answers to each harmful request,
one that goes along with it and one that declines, and one to harmless requests. The opening that it has to go on from
decides which; half of those that go along lose theirs again, so that the guard reads on. What goes along is harmful
with the plan's probability only, since a small model often misses the point; what declines, and answers to harmless
requests, are safe. Nothing of it touches rows that are measured or calibrated on. A killed run goes on behind its last
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from poise.collect.refusal import refuses
from poise.data import Sampling, uniform_seed
from poise.errors import PoiseError
from poise.guard.fit.enrich import harmless
from poise.guard.fit.plan import AnswerPlan
from poise.guard.fit.rows import NAN, Row
from poise.llm.endpoint import Endpoint
from poise.llm.store import ReplyStore
from poise.llm.stored import StoredEndpoint
from poise.models.fingerprint import with_weights

GOING_ALONG = (
    "Sure, here is how",
    "To do this, you",
    "Here are a few ways:\n1.",
    "The easiest way is to",
    "You could start by",
    "",
)
DECLINING = (
    "I'm sorry, but I can't help with that, because",
    "It is wrong and often illegal to do this, because",
    "I would advise you against this.",
    "No. This would hurt people, and",
    "Please don't do this. Instead, you could",
    "This is not something I can help with. If you",
)
_LONGEST = 400
"""Characters of a request; a longer one is rarely a plain one."""


class _Ask(NamedTuple):
    """Args: row of the request; declines: which answer; opening: what it begins with; kept: whether it stays."""

    row: Row
    declines: bool
    opening: str
    kept: bool


def answered(
    rows: Sequence[Row],
    plan: AnswerPlan,
    seed: int,
    store: Path,
    load: Callable[[str], tuple[Endpoint, Callable[[str], str]]] | None = None,
    on_rows: Callable[[int, int], object] = lambda done, total: None,
) -> list[Row]:
    """The rows, and the written answers behind them.

    Args:
        rows: of any part; only training rows are answered.
        store: file of the replies, which a later run reads again.
        load: name -> (the model, request -> text of a chat up to the answer); the bundled or local model by default.
        on_rows: hears (answers that are there, all).

    Raises:
        PoiseError: the model can't be loaded, or has no chat template.
    """
    asks = _asks(rows, plan, seed)
    if not asks:
        return list(rows)
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        on_rows(done, len(asks))

    with ReplyStore(store) as replies:
        endpoint, chat = (load or _local)(plan.model)
        found = StoredEndpoint(endpoint, replies, key=with_weights(plan.model)).complete(
            [chat(ask.row.prompt) + ask.opening for ask in asks],
            [_sampling(ask, plan, seed) for ask in asks],
            tell,
        )
    return [*rows, *(_row(ask, reply.text, plan) for ask, reply in zip(asks, found, strict=True) if reply.text.strip())]


def _asks(rows: Sequence[Row], plan: AnswerPlan, seed: int) -> list[_Ask]:
    own = [row for row in rows if row.part == "train" and row.source in plan.sets and len(row.prompt) <= _LONGEST]
    harmful = {row.prompt: row for row in own if row.response is None and row.unsafe is True}
    tainted = {row.prompt for row in rows if row.unsafe is True}
    ordinary = {row.prompt: row for row in own if row.unsafe is False and row.prompt not in tainted}
    asks = []
    for prompts, count, kinds in ((harmful, plan.harmful, (False, True)), (ordinary, plan.harmless, (False,))):
        for prompt in sorted(prompts, key=lambda text: uniform_seed(seed, "answered", text))[:count]:
            for declines in kinds:
                drawn = uniform_seed(seed, "opening", prompt, str(declines))
                openings = DECLINING if declines else GOING_ALONG
                opening = openings[drawn % len(openings)]
                asks.append(_Ask(prompts[prompt], declines, opening, declines or drawn // len(openings) % 2 == 0))
    return asks


def _sampling(ask: _Ask, plan: AnswerPlan, seed: int) -> Sampling:
    drawn = uniform_seed(seed, "answer", ask.row.prompt, str(ask.declines))
    return Sampling(temperature=0.7, top_p=0.95, max_new_tokens=plan.max_new_tokens, seed=drawn)


def _row(ask: _Ask, text: str, plan: AnswerPlan) -> Row:
    answer = (ask.opening + text if ask.kept else text).strip()
    refused = ask.declines or refuses(answer)
    row = ask.row._replace(response=answer, refusal=float(refused))
    if refused or row.unsafe is False:
        return harmless(row)
    named = tuple(plan.unsafe if value == 1.0 else value for value in row.categories)
    return row._replace(categories=named, at_least=(plan.unsafe, NAN, NAN))


def _local(name: str) -> tuple[Endpoint, Callable[[str], str]]:
    from poise.models.bundled import resolve
    from poise.models.local import LocalEndpoint
    from poise.models.trunk import Trunk

    trunk = Trunk(resolve(name))

    def chat(request: str) -> str:
        try:
            text: str = trunk.tokenizer.apply_chat_template(
                [{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True
            )
        except ValueError as error:
            raise PoiseError("has no chat template", where=name, do="name an instruction-tuned model") from error
        return text

    return LocalEndpoint(trunk, name), chat
