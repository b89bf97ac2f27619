"""Llama Guard 1 to 4 (Meta): "safe", or "unsafe" and a line of category codes.

Sent: the conversation as chat messages. The chat template that travels with each model's tokenizer adds the task, the
categories and the question about the last turn, so the server must apply the model's own template (vLLM, SGLang and
Ollama do). The same code is another harm in each version: codes are read in the taxonomy of the family named, and one
that it does not have leaves all categories of the answer unknown, because then the numbering is another.

Source: the MODEL_CARD.md files of meta-llama/PurpleLlama (categories, first-token score). Left out: images (11B-vision,
4) and policies of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from poise.guard.others.family import Answer, Family, chat
from poise.guard.others.probability import word_shares
from poise.guard.verdict import Verdict, judged, unjudged
from poise.harm.taxonomy import load_taxonomy


def read(answer: Answer, taxonomy: str) -> Verdict:
    """The verdict of `safe`, `unsafe` or `unsafe` with codes such as `S1,S10` on a second line; else unjudged."""
    text = answer.text
    lines = [line.strip() for line in text.strip().split("\n")]
    word = lines[0].casefold()
    if word not in ("safe", "unsafe") or len(lines) > (1 if word == "safe" else 2):
        return unjudged("unparsable", text)
    shares = word_shares(answer.reply, len(text) - len(text.lstrip()), ("safe", "unsafe"))
    probability = None if shares is None else shares["unsafe"]
    codes = lines[1].split(",") if len(lines) == 2 else []
    named = _keys(codes, taxonomy)
    details = {} if named is not None else {"unread categories": lines[1]}
    return judged(
        word == "unsafe", taxonomy=taxonomy, named=named or (), probability=probability, details=details, raw=(text,)
    )


def _keys(codes: Iterable[str], taxonomy: str) -> tuple[str, ...] | None:
    """The categories behind the codes, None when one of them is no code of this taxonomy."""
    known = {category.code.casefold(): category.key for category in load_taxonomy(taxonomy).categories}
    found = [known.get(code.strip().casefold()) for code in codes]
    keys = tuple(dict.fromkeys(key for key in found if key is not None))
    return None if None in found else keys


def _family(name: str, title: str, taxonomy: str) -> Family:
    return Family(
        name=name,
        title=title,
        source="model card in meta-llama/PurpleLlama",
        ask=chat,
        read=partial(read, taxonomy=taxonomy),
        taxonomy=taxonomy,
        max_tokens=96,
    )


LLAMA_GUARDS = (
    _family("llama-guard-1", "Llama Guard 7B", "llama-guard-1"),
    _family("llama-guard-2", "Meta Llama Guard 2 8B", "llama-guard-2"),
    _family("llama-guard-3", "Llama Guard 3 8B", "llama-guard-3"),
    _family("llama-guard-3-1b", "Llama Guard 3 1B", "llama-guard-3-1b"),
    _family("llama-guard-4", "Llama Guard 4 12B", "llama-guard-4"),
)
