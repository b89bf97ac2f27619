"""The model card of a trained guard: `README.md` with the front matter that the Hugging Face Hub reads.

Every number is one of the guard's `metrics.json`; nothing else is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from poise.data.adapters.registry import format_of
from poise.data.release_configs import NOT_RECORDED
from poise.errors import PoiseError
from poise.guard.fit.rows import SEEDS

_SETS = ("set", "of", "training rows", "n", "AUROC", "TF-IDF", "F1", "recall", "FPR", "ECE")
_SEVERITY = {
    "macro_f1": "macro-F1",
    "kappa": "weighted kappa",
    "mae": "MAE",
    "recall_severe": "recall of severe",
    "severe_called_none": "severe called none",
    "macro_f1_within_category": "macro-F1 within a category",
}


def guard_card(settings: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    """The text of `README.md`.

    Args:
        settings: what `guard.json` holds.
        measured: what `metrics.json` holds.
    """
    plan = settings["plan"]
    matter = {"pipeline_tag": "text-classification", "tags": ["safety", "moderation", "guard"]}
    parts = [f"---\n{yaml.safe_dump(matter, sort_keys=False)}---", f"# {plan['name']}", _about(settings, measured)]
    parts += [_sets(measured), *_severity(measured), _categories(measured), _rows(plan, measured)]
    return "\n\n".join(parts) + "\n"


def _about(settings: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    rows, rank, encoder = measured["rows"], settings["lora_rank"], settings["encoder"]
    return (
        "A severity-aware guard of prompts and prompt-response pairs: 19 harm categories, four levels of severity, "
        f"whether an answer refuses. {f'Adapters of rank {rank} on' if rank else 'All weights of'} {encoder}; windows "
        f"of {settings['max_length']} tokens; harm policy {settings['policy']}. Trained on {rows['train']:,} rows, "
        f"calibrated on {rows['calibration']:,} kept apart; the plan is in `guard.json`. It is no judge of what may be "
        "said, and no ground truth: calibrate it on your own traffic before it blocks (`poise guard calibrate`)."
    )


def _sets(measured: Mapping[str, Any]) -> str:
    limit = measured["threshold"]
    lines = [
        "## Numbers",
        "",
        "Test prompts are no near-duplicates of training prompts; `none`: no row of this set was trained on. F1, "
        f'recall and FPR of "unsafe" at the threshold, P(unsafe) of {limit:.3f}, and at even odds; TF-IDF with '
        "logistic regression learnt the same rows.",
        "",
        _line(*_SETS, "F1 at even odds", "recall", "FPR"),
        _line(*["---"] * (len(_SETS) + 3)),
    ]
    for row in measured["sets"]:
        scores = [row.get(name) for name in ("auroc", "tfidf_auroc", "f1", "recall", "fpr", "ece")]
        if scores[0] is None:
            scores[1] = None
        even = [row["even_odds"][name] for name in ("f1", "recall", "fpr")]
        trained = measured["sources"].get(row["set"], "none")
        lines.append(_line(f"`{row['set']}`", row["kind"], trained, row["n"], *map(_told, [*scores, *even])))
    return "\n".join(lines)


def _severity(measured: Mapping[str, Any]) -> list[str]:
    found = measured["severity"]
    if found is None:
        return []
    levels = ", ".join(map(str, found["levels"]))
    lines = [
        f'Severity on {found["n"]} rows whose level is known (levels 0 to 3: {levels}). "Category prior" knows the '
        "true categories and says their commonest level; no guard is given those.",
        "",
        _line("", *_SEVERITY.values()),
        _line(*["---"] * (len(_SEVERITY) + 1)),
    ]
    who = [name for name in ("guard", "always moderate", "category prior") if name in found]
    lines += [_line(name, *(_told(found[name][key]) for key in _SEVERITY)) for name in who]
    return ["\n".join(lines)]


def _categories(measured: Mapping[str, Any]) -> str:
    told = [f"{row['category']} {row['auroc']:.2f} ({row['positive']})" for row in measured["categories"]]
    return f"AUROC of the categories where ten rows have it and ten have not (rows that have it): {', '.join(told)}."


def _rows(plan: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    lines = ["## Training rows", "", "What is trained on a set carries its conditions.", ""]
    lines += [_line("set", "licence", "rows"), _line(*["---"] * 3)]
    for name, rows in sorted(measured["sources"].items(), key=lambda item: (-item[1], item[0])):
        lines.append(_line(f"`{name}`", _licence(name, plan["data"]["sets"].get(name, {})), f"{rows:,}"))
    return "\n".join(lines)


def _licence(name: str, use: Mapping[str, Any]) -> str:
    if name == SEEDS:
        return "Apache-2.0, comes with Poise"
    try:
        return format_of(use.get("format") or name).licence or NOT_RECORDED
    except PoiseError:
        return NOT_RECORDED


def _told(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
