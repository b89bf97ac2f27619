"""The card of a release: `README.md` with the front matter that the Hugging Face Hub and `datasets` read.

Every number is counted from the Parquet files (`poise.data.release_counts`). What nobody told us reads "not recorded".
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from poise.data.columns import HARM_CATEGORY
from poise.data.release_configs import NOT_RECORDED
from poise.data.release_counts import ConfigFiles, ReleaseCounts, count_release
from poise.errors import PoiseError
from poise.harm import Severity

FACTS: dict[str, str] = {
    "language": "Language",
    "collection": "How prompts and responses were collected",
    "annotators": "Who annotated and how they were paid",
    "demographics": "Annotator demographics",
    "protocol": "Annotation protocol and quality control",
    "platform": "Annotation platform",
    "analysis": "Analysis of the annotations",
    "sensitive": "Personal and sensitive information",
    "biases": "Known biases",
    "limitations": "Limitations",
    "use_cases": "Intended use",
    "social_impact": "Social impact",
    "maintenance": "Maintenance and contact",
    "creators": "Creators",
    "citation": "Citation",
    "url": "Home page",
    "version": "Version",
    "published": "Date of publication",
}
"""What a card tells that no file can: key -> heading. `language` is a BCP 47 code, or several with commas between;
`published` an ISO date; `version` MAJOR.MINOR.PATCH."""

_HUB_LICENCES = frozenset(
    ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by")
)

ABOUT = {
    "default": "dual preference: two responses, their harm labels, which is more helpful (`better_response_id`) "
    "and which is less harmful (`safer_response_id`), judged apart",
    "single-dimension": "one overall choice between two responses, no rule imposed",
    "qa": "one response with its harm label",
    "prompt": "the prompts and what they were written for",
    "judgements": "every rater's own answers; `response_*_sha256` joins them to the other configs",
    "pairs-extended": "pairs that are judged in part, and pairs whose safer response follows from the labels "
    "(`safer_derived`)",
    "corrections": "a question, an answer and a better answer",
}
"""Config -> what a row is."""

GATE = (
    "This data holds harmful, offensive and false texts on purpose, so that models can learn to avoid them. "
    "It must not be used to make models more harmful."
)
"""What everyone who opens the data has to know."""


def check_facts(facts: Mapping[str, str]) -> None:
    """Refuse facts that no card tells.

    Raises:
        PoiseError: an unknown key.
    """
    if unknown := sorted(set(facts) - set(FACTS)):
        raise PoiseError(f"unknown fact {unknown[0]!r}", where="card", do=f"use one of {', '.join(FACTS)}")


def render_card(
    folder: Path, *, name: str, licence: str, left_out: Mapping[str, Mapping[str, int]], facts: Mapping[str, str]
) -> str:
    """The text of `README.md` for the Parquet files that lie in the folder.

    Args:
        folder: holds `data/<config>/<split>-*.parquet`.
        name: title.
        licence: SPDX id, or other words.
        left_out: config -> reason -> rows that are not in it.
        facts: key of `FACTS` -> text.

    Raises:
        PoiseError: a fact with an unknown key.
    """
    check_facts(facts)
    counts = count_release(folder)
    matter = yaml.safe_dump(
        _front_matter(counts, name=name, licence=licence, facts=facts), sort_keys=False, allow_unicode=True, width=120
    )
    parts = [f"---\n{matter}---", f"# {name}", f"**Content warning.** {GATE}"]
    parts += [_configs(counts), _label_counts(counts), _raters(counts), _rules(), _left_out(left_out)]
    known = ({"language": ", ".join(counts.languages)} if counts.languages else {}) | dict(facts)
    parts += [f"## {heading}\n\n{known.get(key, NOT_RECORDED)}" for key, heading in FACTS.items()]
    parts += [f"## Licence\n\n{licence}"]
    return "\n\n".join(parts) + "\n"


def _front_matter(counts: ReleaseCounts, *, name: str, licence: str, facts: Mapping[str, str]) -> dict[str, Any]:
    languages = [code.strip() for code in facts["language"].split(",")] if "language" in facts else counts.languages
    hub = licence.lower() in _HUB_LICENCES
    rows = max(files.rows for files in counts.configs.values())
    first = "default" if "default" in counts.configs else next(iter(counts.configs))
    return {
        "pretty_name": name,
        "language": languages or ["und"],  # BCP 47: undetermined
        **({"license": licence.lower()} if hub else {"license": "other", "license_name": licence}),
        "annotations_creators": _creators(counts),
        "source_datasets": _sources(counts),
        "task_categories": ["text-classification", "text-generation"],
        "size_categories": [_size(rows)],
        "tags": ["safety", "harmlessness", "human-preference", "moderation", "rlhf"],
        "extra_gated_prompt": GATE,
        "extra_gated_fields": {"I will use this data only to make models safer": "checkbox"},
        "configs": [_config(config, files, config == first) for config, files in counts.configs.items()],
        "dataset_info": [_info(config, files) for config, files in counts.configs.items()],
    }


def _creators(counts: ReleaseCounts) -> list[str]:
    """In the Hub's words; labels that nobody is named for were found in another data set."""
    words = {"person": "other", "model": "machine-generated", "rule": "machine-generated", "import": "found"}
    labelled = set(counts.configs) - {"prompt", "judgements"}
    return sorted({words[kind] for kind in counts.raters}) or (["found"] if labelled else ["no-annotation"])


def _sources(counts: ReleaseCounts) -> list[str]:
    own = set(counts.raters) - {"import"}
    return (["original"] if own and not counts.datasets else []) + (
        ["extended"] if counts.datasets or "import" in counts.raters or not own else []
    )


def _config(config: str, files: ConfigFiles, default: bool) -> dict[str, Any]:
    paths = [{"split": split, "path": f"data/{config}/{split}-*"} for split in files.splits]
    return {"config_name": config} | ({"default": True} if default else {}) | {"data_files": paths}


def _info(config: str, files: ConfigFiles) -> dict[str, Any]:
    return {
        "config_name": config,
        "features": [_feature(column) for column in files.schema],
        "splits": [
            {"name": split, "num_bytes": size.uncompressed, "num_examples": size.rows}
            for split, size in files.splits.items()
        ],
        "download_size": sum(size.compressed for size in files.splits.values()),
        "dataset_size": sum(size.uncompressed for size in files.splits.values()),
    }


def _feature(column: pa.Field) -> dict[str, Any]:
    """A column as `datasets` writes it in a card: structs and lists by name, all else by dtype."""
    return {"name": column.name} | _dtype(column.type)


def _dtype(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"struct": [_feature(inner) for inner in kind]}
    if pa.types.is_list(kind):
        inner = _dtype(kind.value_type)
        return {"list": inner.get("dtype") or inner["struct"]}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind))}


def _size(rows: int) -> str:
    """The Hub's word for a number of rows; above the last bound there is only "n>1T"."""
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    if rows < 1000:
        return "n<1K"
    for power, (low, high) in enumerate(pairwise(names), start=4):
        if rows < 10**power:
            return f"{low}<n<{high}"
    return "n>1T"


def _configs(counts: ReleaseCounts) -> str:
    lines = ["## Configs", "", "| config | train rows | test rows | what a row is |", "|---|---|---|---|"]
    for config, files in counts.configs.items():
        train, test = (files.splits[s].rows if s in files.splits else 0 for s in ("train", "test"))
        lines.append(f"| `{config}` | {train} | {test} | {ABOUT[config]} |")
    return "\n".join([*lines, "", "Train and test are split by groups of near-duplicate prompts."])


def _label_counts(counts: ReleaseCounts) -> str:
    """Severities and categories in `qa`, kinds of pairs in `default`."""
    lines = ["## Labels", "", "| severity | responses |", "|---|---|"]
    lines += [f"| {level.value} {level.label} | {counts.severities.get(level.value, 0)} |" for level in Severity]
    lines += ["", "| harm category | responses |", "|---|---|"]
    lines += [f"| {field.name} | {counts.categories.get(field.name, 0)} |" for field in HARM_CATEGORY]
    lines += ["", "| pairs | rows |", "|---|---|"]
    words = ((2, "both safe"), (1, "one safe"), (0, "both unsafe"))
    lines += [f"| {text} | {counts.pairs.get(safe, 0)} |" for safe, text in words]
    return "\n".join(lines)


def _raters(counts: ReleaseCounts) -> str:
    if not counts.questions:
        return f"## Raters\n\n{NOT_RECORDED}"
    lines = ["## Raters", "", f"{'; '.join(f'{kind}: {n}' for kind, n in counts.raters.items())}.", ""]
    lines += ["| question | items | raters an item | all raters agree |", "|---|---|---|---|"]
    for q in counts.questions:
        agree = f"{q.agreed} of {q.shared} items with several" if q.shared else "no item has several"
        lines.append(f"| {q.name} | {q.items} | {q.raters_text} | {agree} |")
    return "\n".join(lines)


def _rules() -> str:
    return (
        "## Rules\n\nA response is safe if and only if its severity is 0 and it has no harm category. If exactly one "
        "response of a pair is safe, it is the safer one. `validation.json` holds the check of these and other rules "
        "on the files; `manifest.json` holds a hash of each file."
    )


def _left_out(left_out: Mapping[str, Mapping[str, int]]) -> str:
    lines = [f"| `{config}` | {reason} | {n} |" for config in left_out for reason, n in left_out[config].items()]
    table = ["| config | reason | rows |", "|---|---|---|", *lines] if lines else ["Nothing."]
    note = ["", "Pairs left out of `default` that are judged in part are in `pairs-extended`."]
    return "\n".join(["## Left out", "", *table, *(note if left_out.get("default") else [])])
