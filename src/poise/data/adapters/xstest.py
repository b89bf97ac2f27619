"""XSTest completions: safe prompts that look unsafe, unsafe contrasts, and how far each completion refuses."""

from __future__ import annotations

from poise.data.adapters.build import Builder, Kind, Line, RowDroppedError


def xstest(out: Builder, line: Line) -> None:
    """Adapter for `prompt`, `response`, `type`, `label`.

    Any completion of a safe prompt is safe. Of a contrast prompt only a full refusal is known to be safe; the set
    does not say whether the rest is harmful, so it is dropped and counted.
    """
    contrast = str(line.get("type")).startswith("contrast_")
    if contrast and line.get("label") != "2_full_refusal":
        raise RowDroppedError("contrast prompt without a full refusal")
    kind: Kind = "harmful" if contrast else "lookalike"
    answer = out.qa(line.text("prompt"), line.text("response"), kind=kind)
    out.judge(answer.id, "safe", True)
