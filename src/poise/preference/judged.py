"""Facts of all sets together: votes counted, prompts shared out, texts turned into what the models learn from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from poise.data import uniform_seed
from poise.data.neardup import clusters
from poise.models.generate import chat_ids
from poise.models.trunk import Trunk
from poise.preference.facts import Conversation, Fact
from poise.preference.pairs import Example, Pair, PreferenceData

PARTS = ("train", "validation", "test")


class Answer(NamedTuple):
    """One response and what the votes say of it. Args: unsafe, severity, categories: None when unknown."""

    text: str
    name: str
    unsafe: bool | None
    severity: int | None
    categories: tuple[str, ...] | None


class Choice(NamedTuple):
    """Two answers of a conversation (their numbers in it); better and safer: 0 or 1, None when unknown."""

    sides: tuple[int, int]
    better: int | None
    safer: int | None


class Judged(NamedTuple):
    """A conversation with all that is known of its answers. Args: test: a source calls one of its rows a test row."""

    conversation: Conversation
    answers: list[Answer]
    choices: list[Choice]
    test: bool


def count_votes(facts: Sequence[Fact], dropped: Counter[str]) -> list[Judged]:
    """One entry for each conversation; votes that tie, and choices against the labels, are counted in `dropped`.

    A choice of the unsafe response as safer than the safe one contradicts the logical order and is left out.
    """
    by_prompt: dict[Conversation, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_prompt[fact.conversation].append(fact)
    return [_judged(conversation, rows, dropped) for conversation, rows in by_prompt.items()]


def _judged(conversation: Conversation, facts: Sequence[Fact], dropped: Counter[str]) -> Judged:
    order: dict[str, int] = {}
    names: dict[str, str] = {}
    labels: dict[str, list[tuple[bool, int | None, tuple[str, ...] | None]]] = defaultdict(list)
    votes: dict[tuple[int, int], tuple[Counter[int], Counter[int]]] = {}
    for fact in facts:
        for text, label in zip(fact.responses, fact.labels, strict=True):
            order.setdefault(text, len(order))
            names.setdefault(text, fact.name)
            if label.safe is not None:
                labels[text].append((not label.safe, label.severity, label.categories))
        if len(fact.responses) == 2:
            first, second = (order[text] for text in fact.responses)
            better, safer = votes.setdefault((min(first, second), max(first, second)), (Counter(), Counter()))
            for choice, counter in ((fact.better, better), (fact.safer, safer)):
                if choice is not None:
                    counter[choice if first < second else 1 - choice] += 1
    answers = [_answer(text, names[text], labels[text], dropped) for text in order]
    choices = []
    for sides, (better, safer) in votes.items():
        helps, harms = _most(better, "better", dropped), _most(safer, "safer", dropped)
        flags = [answers[side].unsafe for side in sides]
        if harms is not None and flags[harms] is True and flags[1 - harms] is False:
            dropped["choices of an unsafe response as safer than a safe one"] += 1
            harms = None
        if helps is not None or harms is not None:
            choices.append(Choice(sides, helps, harms))
    return Judged(conversation, answers, choices, any(fact.test for fact in facts))


def _answer(
    text: str, name: str, labels: Sequence[tuple[bool, int | None, tuple[str, ...] | None]], dropped: Counter[str]
) -> Answer:
    unsafe = _most(Counter(label[0] for label in labels), "label", dropped)
    agreeing = [label for label in labels if label[0] == unsafe]
    severity = next((level for _, level, _ in agreeing if level is not None), 0 if unsafe is False else None)
    categories = next((names for _, _, names in agreeing if names is not None), None)
    return Answer(text, name, None if unsafe is None else bool(unsafe), severity, categories)


def _most(votes: Counter[int] | Counter[bool], what: str, dropped: Counter[str]) -> int | None:
    """What most say; a tie is unknown."""
    if not votes:
        return None
    ranked = votes.most_common(2)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        dropped[f"votes about {what} that tie"] += 1
        return None
    return int(ranked[0][0])


def share_out(
    judged: Sequence[Judged], test_share: float, validation_share: float, seed: int
) -> dict[str, list[Judged]]:
    """Conversations by part: near-duplicates stay together, the part is a hash of the first text of their cluster.

    What a source calls test is test, with all that is near to it.
    """
    texts = ["\n".join(text for _, text in entry.conversation) for entry in judged]
    grouped: dict[int, list[int]] = defaultdict(list)
    for at, cluster in enumerate(clusters(texts).tolist()):
        grouped[cluster].append(at)
    parts: dict[str, list[Judged]] = {part: [] for part in PARTS}
    for group in grouped.values():
        chance = uniform_seed(seed, min(texts[at] for at in group), "preference part") / 2**63
        part = "train" if chance >= test_share + validation_share else "validation" if chance >= test_share else "test"
        if any(judged[at].test for at in group):
            part = "test"
        parts[part] += [judged[at] for at in group]
    return parts


def encode(
    trunk: Trunk, judged: Sequence[Judged], system: str, max_prompt: int, max_response: int, cut: Counter[str]
) -> PreferenceData:
    """Tokens of every answer that something is learnt from.

    Args:
        system: system message; empty for none. A conversation that begins with one keeps its own.
        max_prompt, max_response: tokens; a prompt is cut at its start, a response at its end, and the end token comes
            after it in either case.
        cut: counts "prompts" and "responses" that are.
    """
    out = PreferenceData([], [], [], [])
    for entry in judged:
        ids = chat_ids(trunk, messages_of(entry.conversation, system))
        cut["prompts"] += len(ids) > max_prompt
        used = {side for choice in entry.choices for side in choice.sides}
        used |= {side for side, answer in enumerate(entry.answers) if answer.unsafe is not None}
        where: dict[int, int] = {}
        for side in sorted(used):
            answer = entry.answers[side]
            response = trunk.tokenizer(answer.text, add_special_tokens=False)["input_ids"]
            cut["responses"] += len(response) > max_response
            where[side] = len(out.examples)
            tokens = [*response[:max_response], trunk.tokenizer.eos_token_id]
            out.examples.append(Example(ids[-max_prompt:], tokens, answer.unsafe, answer.severity, answer.name))
        pairs = []
        for choice in entry.choices:
            first, second = choice.sides
            pairs.append(len(out.pairs))
            rung = _rung(entry.answers[first], entry.answers[second])
            out.pairs.append(Pair((where[first], where[second]), choice.better, choice.safer, rung))
        ranked = {row for pair in pairs if out.pairs[pair].safer is not None for row in out.pairs[pair].rows}
        alone = [row for row in where.values() if row not in ranked and out.examples[row].unsafe is not None]
        if pairs or alone:
            out.prompts.append(pairs)
            out.alone.append(alone)
    return out


def messages_of(conversation: Conversation, system: str) -> list[dict[str, str]]:
    """Chat messages, with the system message in front where there is one and the conversation brings none."""
    head = [("system", system)] if system and conversation[0][0] != "system" else []
    return [{"role": role, "content": text} for role, text in (*head, *conversation)]


def _rung(first: Answer, second: Answer) -> str:
    """What separates two answers in harm; "unlabelled" when a label is unknown."""
    if first.unsafe is None or second.unsafe is None:
        return "unlabelled"
    if first.unsafe != second.unsafe:
        return "boundary"
    if None not in (first.severity, second.severity) and first.severity != second.severity:
        return "severity"
    told = first.categories is not None and second.categories is not None
    return "categories" if told and set(first.categories or ()) != set(second.categories or ()) else "none"
