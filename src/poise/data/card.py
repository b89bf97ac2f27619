"""The card of a release: `README.md` with the front matter that the Hugging Face Hub and `datasets` read.

Every number is counted from the Parquet files. What nobody told us reads "not recorded".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from poise.data.columns import SCHEMAS
from poise.errors import PoiseError
from poise.harm import Severity

FACTS: dict[str, str] = {
    "language": "Language",
    "collection": "How prompts and responses were collected",
    "annotators": "Who annotated and how they were paid",
    "demographics": "Annotator demographics",
    "protocol": "Annotation protocol and quality control",
    "biases": "Known biases",
    "limitations": "Limitations",
    "maintenance": "Maintenance and contact",
}
"""What a card tells that no file can: key -> heading. `language` is a BCP 47 code, or several with commas between."""

_HUB_LICENCES = frozenset(
    ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by")
)

_ABOUT = {
    "default": "dual preference: two responses, their harm labels, which is more helpful (`better_response_id`) "
    "and which is less harmful (`safer_response_id`), judged apart",
    "single-dimension": "one overall choice between two responses, no rule imposed",
    "qa": "one response with its harm label",
    "prompt": "the prompts and what they were written for",
    "judgements": "every rater's own answers; `response_*_sha256` joins them to the other configs",
}

_GATE = (
    "This data holds harmful, offensive and false texts on purpose, so that models can learn to avoid them. "
    "It must not be used to make models more harmful."
)


def render_card(
    folder: Path, *, name: str, licence: str, left_out: Mapping[str, Mapping[str, int]], facts: Mapping[str, str]
) -> str:
    """The text of `README.md` for the Parquet files that lie in the folder.

    Args:
        folder: holds `data/<config>/<split>-*.parquet` for every config.
        name: title.
        licence: SPDX id, or other words.
        left_out: config -> reason -> rows that are not in the release.
        facts: key of `FACTS` -> text.

    Raises:
        PoiseError: a fact with an unknown key.
    """
    if unknown := sorted(set(facts) - set(FACTS)):
        raise PoiseError(f"unknown fact {unknown[0]!r}", where="card", do=f"use one of {', '.join(FACTS)}")
    tables = {config: _read(folder, config) for config in SCHEMAS}
    matter = yaml.safe_dump(
        _front_matter(folder, tables, name=name, licence=licence, facts=facts),
        sort_keys=False,
        allow_unicode=True,
        width=120,
    )
    parts = [f"---\n{matter}---", f"# {name}", f"**Content warning.** {_GATE}"]
    parts += [_configs(tables), _label_counts(tables), _rules(), _left_out(left_out)]
    parts += [f"## {heading}\n\n{facts.get(key, 'not recorded')}" for key, heading in FACTS.items()]
    parts += [f"## Licence\n\n{licence}"]
    return "\n\n".join(parts) + "\n"


def _read(folder: Path, config: str) -> dict[str, pa.Table]:
    files = sorted(folder.glob(f"data/{config}/*.parquet"), key=lambda path: path.name.startswith("test"))
    return {path.name.split("-")[0]: pq.read_table(path) for path in files}


def _front_matter(
    folder: Path, tables: Mapping[str, Mapping[str, pa.Table]], *, name: str, licence: str, facts: Mapping[str, str]
) -> dict[str, Any]:
    matter: dict[str, Any] = {"pretty_name": name}
    if "language" in facts:
        matter["language"] = [code.strip() for code in facts["language"].split(",")]
    hub = licence.lower() in _HUB_LICENCES
    matter |= {"license": licence.lower()} if hub else {"license": "other", "license_name": licence}
    kinds = Counter(kind for table in tables["judgements"].values() for kind in table["rater_kind"].to_pylist())
    creators = {"person": "other", "model": "machine-generated", "rule": "machine-generated", "import": "found"}
    return matter | {
        "annotations_creators": sorted({creators[kind] for kind in kinds}) or ["no-annotation"],
        "source_datasets": ["extended"] if kinds["import"] else ["original"],
        "task_categories": ["text-classification", "text-generation"],
        "size_categories": [_size(max(_rows(splits) for splits in tables.values()))],
        "tags": ["safety", "harmlessness", "human-preference", "moderation", "rlhf"],
        "extra_gated_prompt": _GATE,
        "extra_gated_fields": {"I will use this data only to make models safer": "checkbox"},
        "configs": [_config(config, splits) for config, splits in tables.items() if splits],
        "dataset_info": [_info(folder, config, splits) for config, splits in tables.items() if splits],
    }


def _config(config: str, splits: Mapping[str, pa.Table]) -> dict[str, Any]:
    files = [{"split": split, "path": f"data/{config}/{split}-*"} for split in splits]
    return {"config_name": config} | ({"default": True} if config == "default" else {}) | {"data_files": files}


def _info(folder: Path, config: str, splits: Mapping[str, pa.Table]) -> dict[str, Any]:
    return {
        "config_name": config,
        "features": [_feature(column) for column in SCHEMAS[config]],
        "splits": [
            {"name": split, "num_bytes": table.nbytes, "num_examples": table.num_rows}
            for split, table in splits.items()
        ],
        "download_size": sum(path.stat().st_size for path in folder.glob(f"data/{config}/*.parquet")),
        "dataset_size": sum(table.nbytes for table in splits.values()),
    }


def _feature(column: pa.Field) -> dict[str, Any]:
    if pa.types.is_struct(column.type):
        return {"name": column.name, "struct": [_feature(inner) for inner in column.type]}
    dtype = {"double": "float64"}.get(str(column.type), str(column.type))
    return {"name": column.name, "dtype": dtype}


def _size(rows: int) -> str:
    for bound, text in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if rows < bound:
            return text
    return "1M<n<10M"


def _rows(splits: Mapping[str, pa.Table]) -> int:
    return sum(table.num_rows for table in splits.values())


def _configs(tables: Mapping[str, Mapping[str, pa.Table]]) -> str:
    lines = ["## Configs", "", "| config | train rows | test rows | what a row is |", "|---|---|---|---|"]
    for config, splits in tables.items():
        train, test = (splits[s].num_rows if s in splits else 0 for s in ("train", "test"))
        lines.append(f"| `{config}` | {train} | {test} | {_ABOUT[config]} |")
    return "\n".join([*lines, "", "Train and test are split by groups of near-duplicate prompts."])


def _label_counts(tables: Mapping[str, Mapping[str, pa.Table]]) -> str:
    """Severities and categories in `qa`, kinds of pairs in `default`."""
    severities: Counter[int] = Counter()
    categories: Counter[str] = Counter()
    for table in tables["qa"].values():
        severities.update(table["severity_level"].to_pylist())
        for flags in table["harm_category"].to_pylist():
            categories.update(name for name, true in flags.items() if true)
    pairs: Counter[int] = Counter()
    for table in tables["default"].values():
        flags_0, flags_1 = (table[f"is_response_{i}_safe"].to_pylist() for i in (0, 1))
        pairs.update(int(a) + int(b) for a, b in zip(flags_0, flags_1, strict=True))
    lines = ["## Labels", "", "| severity | responses |", "|---|---|"]
    lines += [f"| {level.value} {level.label} | {severities[level.value]} |" for level in Severity]
    lines += ["", "| harm category | responses |", "|---|---|"]
    lines += [f"| {field.name} | {categories[field.name]} |" for field in SCHEMAS["qa"].field("harm_category").type]
    lines += ["", "| pairs | rows |", "|---|---|"]
    lines += [f"| {text} | {pairs[n]} |" for n, text in ((2, "both safe"), (1, "one safe"), (0, "both unsafe"))]
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
    return "\n".join(["## Left out", "", *table])
