"""Qwen3Guard-Gen (Qwen team): `Safety:` in three tiers, `Categories:`, and for a response `Refusal:`.

Sent: the conversation as chat messages; the chat template of the model adds the rest (README of QwenLM/Qwen3Guard). The
middle tier, Controversial, means that it depends on the context. Whether it counts as unsafe is the reader's choice
(14 points of F1 on ToxicChat, arXiv 2510.14276), so the tier stays in the verdict and `Verdict.at` reads it either way.
Unverified: what stands between several categories; a comma is taken, anything else leaves the categories unknown. Left
out: Qwen3Guard-Stream, which needs its own tokenizer on the same machine.
"""

from __future__ import annotations

import re

from poise.errors import PoiseError
from poise.guard.others.family import Answer, Family, chat
from poise.guard.others.probability import word_shares
from poise.guard.verdict import Verdict, tiered, unjudged
from poise.harm.taxonomy import load_taxonomy

TAXONOMY = "qwen3guard-9"
TIERS = ("Safe", "Controversial", "Unsafe")
_FORMAT = re.compile(
    r"\s*Safety: *(?P<tier>safe|controversial|unsafe) *\n"
    r" *Categories: *(?P<names>[^\n]+?) *"
    r"(?:\n *Refusal: *(?P<refusal>yes|no) *)?\s*",
    re.IGNORECASE,
)


def read(answer: Answer) -> Verdict:
    """The verdict of two lines for a prompt, three for a pair; else unjudged."""
    text = answer.text
    found = _FORMAT.fullmatch(text)
    if found is None or (found["refusal"] is not None) != answer.pair:
        return unjudged("unparsable", text)
    tier = found["tier"].capitalize()
    names = [] if found["names"].casefold() == "none" else found["names"].split(",")
    if tier == "Safe" and names:
        return unjudged("contradiction", text)
    details: dict[str, str] = {}
    try:
        named = tuple(dict.fromkeys(map(load_taxonomy(TAXONOMY).parse, names)))
    except PoiseError:
        named, details = (), {"unread categories": found["names"]}
    told = Verdict(
        reason="not read yet",
        taxonomy=TAXONOMY,
        named=named,
        refusal=found["refusal"].casefold() == "yes" if answer.pair else None,
        tiers=word_shares(answer.reply, found.start("tier"), TIERS),
        details=details,
        raw=(text,),
    )
    return tiered(told, tier, strict=answer.strict)


QWEN3GUARD = Family(
    name="qwen3guard",
    title="Qwen3Guard-Gen 0.6B, 4B, 8B",
    source="README of QwenLM/Qwen3Guard",
    ask=chat,
    read=read,
    taxonomy=TAXONOMY,
    max_tokens=128,
)
