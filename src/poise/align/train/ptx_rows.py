"""Rows of the PTX term: instructions in token ids, asked as the prompts of the rollouts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from poise.align.sft import Instructions
from poise.align.sft.instructions import BadRowError, Message
from poise.align.sft.templates import Control, control_tokens
from poise.errors import PoiseError
from poise.models.generate import chat_ids
from poise.models.trunk import Trunk

Row = tuple[Sequence[int], Sequence[int]]


class PTXRows(NamedTuple):
    """Args: rows, ids of a prompt and of its answer; cut, answers cut at the limit; dropped, rows by reason."""

    rows: list[Row]
    cut: int
    dropped: Counter[str]

    @property
    def told(self) -> dict[str, Any]:
        """What a report tells of them."""
        return {"train": len(self.rows), "cut": self.cut, "dropped": dict(self.dropped.most_common())}


def ptx_rows(trunk: Trunk, instructions: Instructions, system: str, max_prompt: int, max_response: int) -> PTXRows:
    """The last answer of each conversation and what stands before it; a text with a control token in it is dropped.

    Args:
        system: message before a conversation that has none of its own; an empty one is left out.
        max_prompt: tokens of a prompt with its template; a longer one loses its beginning.
        max_response: tokens of an answer; a longer one loses its end, and has no end token then.

    Raises:
        PoiseError: no row is left.
    """
    control = control_tokens(trunk.tokenizer)
    rows, cut, dropped = list[Row](), 0, Counter(instructions.dropped)
    for messages in instructions.conversations:
        try:
            prompt, answer = _row(trunk, messages, system, control)
        except BadRowError as reason:
            dropped[str(reason)] += 1
            continue
        long = len(answer) > max_response
        cut += long
        rows.append((prompt[-max_prompt:], answer[:max_response] if long else [*answer, trunk.tokenizer.eos_token_id]))
    if not rows:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common())
        raise PoiseError(f"no row can be learnt from ({reasons})", where="ptx.files", do="mend the rows")
    return PTXRows(rows, cut, dropped)


def _row(trunk: Trunk, messages: list[Message], system: str, control: Control) -> tuple[list[int], list[int]]:
    from jinja2 import TemplateError

    if any(token in message["content"] for message in messages for token in control.texts):
        raise BadRowError("special-token")
    own = messages[0]["role"] == "system"
    said = messages[0]["content"] if own else system
    before = [*([{"role": "system", "content": said}] if said else []), *messages[int(own) : -1]]
    try:
        prompt = chat_ids(trunk, before)
    except TemplateError as error:
        raise BadRowError("template") from error
    answer: list[int] = trunk.tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
    if not answer:
        raise BadRowError("empty-response")
    return prompt, answer
