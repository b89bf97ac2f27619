"""How a conversation becomes text and token ids, and which of the ids are learnt.

Two templates: the chat template that the model's tokenizer brings, and `pku`, the one of the safe-rlhf code:

    BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{response}<eos>

with no blank after `ASSISTANT:`, and `USER: ` again after the end token of an earlier answer. It is kept as a Jinja
chat template in the tokenizer, so that whoever asks the model later writes what it was trained on. The published
template has no system turn; a system message is put before the first prompt, joined by one blank.

Learnt are the tokens of every answer and the token that ends it; nothing else. The ids of a prompt are those that the
prompt alone gives, as at generation: where the tokenizer would merge across the border, the answer is cut off first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from poise.align.sft.instructions import BadRowError, Message
from poise.errors import PoiseError

TEMPLATES = ("chat", "pku")

PKU = (
    "{{ 'BEGINNING OF CONVERSATION: ' }}"
    "{% set ns = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set ns.system = message['content'] + ' ' %}"
    "{% elif message['role'] == 'user' %}"
    "{{ 'USER: ' + ns.system + message['content'] + ' ASSISTANT:' }}{% set ns.system = '' %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)


class Example(NamedTuple):
    """Token ids of one conversation.

    Args:
        ids: int[T], the whole conversation up to the last token that is learnt.
        learnt: bool[T], true at tokens of answers and at the tokens that end them.
        cut: whether it was longer than the limit; the end token of the last answer is then not learnt.
        where: its row, for messages.
    """

    ids: list[int]
    learnt: list[bool]
    cut: bool
    where: str = ""

    @property
    def targets(self) -> int:
        """How many tokens are learnt; the first token of a row has nothing before it and never counts."""
        return sum(self.learnt[1:])


def set_template(tokenizer: Any, name: str, where: str) -> None:
    """Give the tokenizer its template and a padding token.

    Args:
        tokenizer: changed in place.
        name: "chat" keeps the tokenizer's own template, "pku" sets that one.
        where: the model, for messages.

    Raises:
        PoiseError: an unknown name, no end-of-sequence token, or "chat" for a tokenizer without a template.
    """
    if name not in TEMPLATES:
        raise PoiseError(f"no template {name!r}", where="--template", do=f"one of {', '.join(TEMPLATES)}")
    if tokenizer.eos_token is None:
        raise PoiseError("the tokenizer has no end-of-sequence token", where=where, do="use another model")
    if name == "pku":
        starts = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if starts else "") + PKU
    elif tokenizer.chat_template is None:
        raise PoiseError("the model has no chat template", where=where, do="use --template pku")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token


class Control(NamedTuple):
    """What the tokenizer reads as control tokens: their texts, with which a row could forge a turn, and their ids."""

    texts: tuple[str, ...]
    ids: frozenset[int]


def control_tokens(tokenizer: Any) -> Control:
    """The special tokens of a tokenizer, the added ones among them."""
    added = {at: str(token) for at, token in tokenizer.added_tokens_decoder.items() if token.special}
    texts = {*added.values(), *tokenizer.all_special_tokens}
    return Control(tuple(sorted(texts)), frozenset({*added, *tokenizer.all_special_ids}))


def encode(tokenizer: Any, messages: list[Message], max_length: int, control: Control) -> Example:
    """Token ids of a conversation under the tokenizer's template, cut on the right at `max_length`.

    Args:
        tokenizer: see `set_template`.
        messages: a conversation that ends with the assistant.
        max_length: most tokens of an example.
        control: `control_tokens(tokenizer)`.

    Raises:
        BadRowError: "special-token" in a text, "prompt-too-long", or "template" when the tokenizer's template refuses
            the conversation or rewrites earlier turns as it goes on.
    """
    if any(text in message["content"] for message in messages for text in control.texts):
        raise BadRowError("special-token")
    ids: list[int] = []
    learnt: list[bool] = []
    before = ""
    for at, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked, answered = _render(tokenizer, messages[:at], True), _render(tokenizer, messages[: at + 1], False)
        if not asked.startswith(before) or not answered.startswith(asked):
            raise BadRowError("template")
        prompt, answer = _tail(tokenizer, before, ids, asked), _tail(tokenizer, asked, None, answered)
        end = max((place for place, token in enumerate(answer) if token in control.ids), default=None)
        spoken = len(answer) if end is None else end + 1
        if end is None:
            answer = [*answer, tokenizer.eos_token_id]
            spoken += 1
        ids += prompt + answer
        learnt += [False] * len(prompt) + [True] * spoken + [False] * (len(answer) - spoken)
        before = answered
    last = len(learnt) - learnt[::-1].index(True)
    ids, learnt = ids[:last], learnt[:last]
    example = Example(ids[:max_length], learnt[:max_length], len(ids) > max_length)
    if not example.targets:
        raise BadRowError("prompt-too-long")
    return example


def _render(tokenizer: Any, messages: list[Message], ask: bool) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except TemplateError as error:
        raise BadRowError("template") from error
    return text


def _tail(tokenizer: Any, before: str, ids: list[int] | None, text: str) -> list[int]:
    """Ids of what `text` has after `before`: in context where the border is a border of tokens, else on its own."""
    head = _ids(tokenizer, before) if ids is None else ids
    whole = _ids(tokenizer, text)
    return whole[len(head) :] if whole[: len(head)] == head else _ids(tokenizer, text[len(before) :])


def _ids(tokenizer: Any, text: str) -> list[int]:
    if not text:
        return []
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids
