"""PKU-SafeRLHF pairs as chosen and rejected, where the chosen response is the safer one and both flags are given."""

from __future__ import annotations

from poise.data.adapters.build import Builder, Line, RowDroppedError


def chosen_rejected(out: Builder, line: Line) -> None:
    """Adapter for `prompt`, `chosen`, `rejected`, `chosen_is_safe`, `rejected_is_safe`."""
    chosen_safe, rejected_safe = line.flag("chosen_is_safe"), line.flag("rejected_is_safe")
    if rejected_safe and not chosen_safe:
        raise RowDroppedError("the unsafe response is called safer than the safe one")
    pair, (chosen, rejected) = out.pair(line.text("prompt"), (line.text("chosen"), line.text("rejected")))
    out.judge(chosen.id, "safe", chosen_safe)
    out.judge(rejected.id, "safe", rejected_safe)
    out.judge(pair.id, "safer", 0 if chosen.id == pair.qa_0 else 1)
