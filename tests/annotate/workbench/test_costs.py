"""Costs: tokens by model from the stores of replies, money only where prices are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from poise.annotate.workbench.costs import spent
from poise.errors import PoiseError
from poise.llm.budget import Price
from poise.llm.exchange import ChatRequest, Reply
from poise.llm.store import Exchange, ReplyStore


def test_tokens_and_money(tmp_path: Path) -> None:
    with ReplyStore(tmp_path / "replies.db") as store:
        for n, (model, tokens) in enumerate([("big", 100), ("big", 300), ("small", None)]):
            request = ChatRequest(model=model, messages=(("user", f"question {n}"),))
            reply = Reply(
                text="answer",
                finish_reason="stop",
                prompt_tokens=tokens,
                completion_tokens=tokens and 10,
                latency_s=2.0,
            )
            store.finish(request, Exchange(request.identity, "done", reply))
        big, small = spent([tmp_path / "replies.db"], {"big": Price(10.0, 1000.0)})
    assert (big.model, big.requests, big.done, big.prompt_tokens, big.completion_tokens) == ("big", 2, 2, 400, 20)
    assert big.cost == pytest.approx(400 * 10 / 1e6 + 20 * 1000 / 1e6) and big.latency_s == 2.0
    assert (small.uncounted, small.prompt_tokens, small.cost) == (1, 0, None)


def test_what_is_no_store_of_replies(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no store of replies"):
        spent([tmp_path / "none.db"])
    (tmp_path / "text").write_text("no database")
    with pytest.raises(PoiseError, match="no store of replies"):
        spent([tmp_path / "text"])
