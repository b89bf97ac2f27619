"""PKU-SafeRLHF dual preference: the 16 public fields, or the 7 of its first releases (v0, 30K, 10K).

The order of the two responses is kept, so that a release read by this adapter and written again holds the same rows.
Rows that break the data's own rules are dropped and counted (8 of 147,814 public answers do).
"""

from __future__ import annotations

from poise.data.adapters.build import Builder, Line, RowDroppedError
from poise.data.rows import Split, label_value
from poise.harm import Label


def pku_dual(out: Builder, line: Line) -> None:
    """Adapter: two QA rows with "label" (16 fields) or "safe" (7 fields), a pair with "better" and "safer".

    The harm categories may be a mapping name -> bool (public) or a list of the true names. A file whose name starts
    with "test" gives test rows. Where one text comes from two models, the first source named stays.
    """
    prompt, responses = line.text("prompt"), (line.text("response_0"), line.text("response_1"))
    safe = [line.flag(f"is_response_{i}_safe") for i in (0, 1)]
    better, safer = _response_id(line, "better_response_id"), _response_id(line, "safer_response_id")
    full = "response_0_harm_category" in line.row
    labels = [_label(line, i, safe[i]) for i in (0, 1)] if full else []
    if safe[0] != safe[1] and not safe[safer]:
        raise RowDroppedError("the unsafe response is called safer than the safe one")

    split: Split = "test" if line.path.name.startswith("test") else "train"
    out.prompt(prompt, source=line.row.get("prompt_source"), split=split)
    sources = line.row.get("response_0_source"), line.row.get("response_1_source")
    pair, answers = out.pair(prompt, responses, keep_order=True, sources=sources, split=split)
    for i, answer in enumerate(answers):
        if full:
            out.judge(answer.id, "label", label_value(labels[i]))
        else:
            out.judge(answer.id, "safe", safe[i])
    out.judge(pair.id, "better", better)
    out.judge(pair.id, "safer", safer)


def _response_id(line: Line, column: str) -> int:
    value = line.get(column)
    if value not in (0, 1) or isinstance(value, bool):
        raise RowDroppedError(f"{column} is neither 0 nor 1")
    return int(value)


def _label(line: Line, i: int, safe: bool) -> Label:
    categories = line.get(f"response_{i}_harm_category")
    names = [name for name, true in categories.items() if true] if isinstance(categories, dict) else categories
    try:
        label = Label.of(names, line.get(f"response_{i}_severity_level"))
    except (TypeError, ValueError) as error:
        raise RowDroppedError("severity and harm categories disagree or are unknown") from error
    if label.safe != safe:
        raise RowDroppedError("the safe flag and the severity disagree")
    return label
