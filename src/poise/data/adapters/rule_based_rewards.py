"""OpenAI's rule-based-rewards gold set: chat messages, one completion, about twenty yes-or-no propositions."""

from __future__ import annotations

from poise.data.adapters.build import Builder, Line, RowDroppedError, usable_text


def rule_based_rewards(out: Builder, line: Line) -> None:
    """Adapter for `messages`, `completion`, `propositions`: unsafe when the completion holds disallowed content.

    A conversation is flattened to its last user turn: our rows hold one prompt and one response.
    """
    users = [message["content"] for message in line.get("messages") if message["role"] == "user"]
    if not users:
        raise RowDroppedError("no user turn")
    disallowed = line.get("propositions").get("disallowed_content")
    if not isinstance(disallowed, bool):
        raise RowDroppedError("disallowed_content is not judged")
    completion = usable_text(line.get("completion")[-1]["content"], "completion")
    answer = out.qa(usable_text(users[-1], "prompt"), completion)
    out.judge(answer.id, "safe", not disallowed)
