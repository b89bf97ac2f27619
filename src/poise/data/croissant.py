"""`croissant.json` of a release: Croissant 1.1 with the responsible-AI fields, as JSON-LD.

Written by hand rather than through `mlcroissant`, which is heavy and would add dates. Paths are relative, so the file
describes the folder it lies in. A date of publication is there only when somebody tells it.

Source: mlcommons.org/croissant/1.1, mlcommons.org/croissant/RAI/1.0
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from poise.data.card import ABOUT, GATE, check_facts
from poise.data.release_configs import NOT_RECORDED
from poise.data.release_counts import ReleaseCounts, count_release

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field"),
            *("fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath"),
            *("key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace"),
            *("samplingRate", "separator", "source", "subField", "transform"),
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}

_CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

_RAI = {
    "rai:dataCollection": "collection",
    "rai:dataAnnotationProtocol": "protocol",
    "rai:dataAnnotationPlatform": "platform",
    "rai:dataAnnotationAnalysis": "analysis",
    "rai:annotatorDemographics": "demographics",
    "rai:personalSensitiveInformation": "sensitive",
    "rai:dataBiases": "biases",
    "rai:dataLimitations": "limitations",
    "rai:dataUseCases": "use_cases",
    "rai:dataSocialImpact": "social_impact",
    "rai:dataReleaseMaintenancePlan": "maintenance",
}
"""Responsible-AI field -> the fact that fills it."""

_SPDX = ("Apache-2.0", "MIT", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "ODC-By-1.0")

_TYPES = {pa.string(): "sc:Text", pa.int64(): "cr:Int64", pa.bool_(): "sc:Boolean", pa.float64(): "cr:Float64"}


def render_croissant(folder: Path, *, name: str, licence: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """The content of `croissant.json` for the Parquet files that lie in the folder.

    Every file is a FileObject with its SHA-256; the files of a config are a FileSet, which the config's RecordSet
    reads, with the split taken from the path.

    Args:
        folder: holds `data/<config>/<split>-*.parquet`.
        name: title.
        licence: SPDX id, or other words.
        facts: key of `poise.data.card.FACTS` -> text; raters are counted from the files.

    Raises:
        PoiseError: a fact with an unknown key.
    """
    check_facts(facts)
    counts = count_release(folder)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS,
        "name": name,
        "description": f"{', '.join(f'{unit} ({files.rows} rows)' for unit, files in counts.configs.items())}. {GATE}",
        "license": _licence(licence),
        **_about(counts, facts),
        **{field: facts.get(fact, NOT_RECORDED) for field, fact in _RAI.items()},
        **_raters(counts, facts),
        "distribution": [part for unit in counts.configs for part in _distribution(folder, unit)],
        "recordSet": [_record_set(unit, files.schema) for unit, files in counts.configs.items()],
    }


def _licence(licence: str) -> str:
    known = {spdx.lower(): spdx for spdx in _SPDX} | {"odc-by": "ODC-By-1.0"}
    return f"https://spdx.org/licenses/{known[licence.lower()]}.html" if licence.lower() in known else licence


def _about(counts: ReleaseCounts, facts: Mapping[str, str]) -> dict[str, Any]:
    """The facts that have a field of their own; a field that nobody can fill with a valid value is left out."""
    languages = [code.strip() for code in facts.get("language", "").split(",") if code.strip()] or counts.languages
    about: dict[str, Any] = {"keywords": ["safety", "harmlessness", "human-preference", "moderation", "rlhf"]}
    about |= {"inLanguage": languages} if languages else {}
    fields = {"url": "url", "version": "version", "published": "datePublished", "citation": "citeAs"}
    about |= {field: facts[fact] for fact, field in fields.items() if fact in facts}
    if "creators" in facts:
        names = [name.strip() for name in facts["creators"].split(",")]
        about["creator"] = [{"@type": "Organization", "name": name} for name in names]
    return about


def _raters(counts: ReleaseCounts, facts: Mapping[str, str]) -> dict[str, Any]:
    """What the judgements tell about who annotated."""
    found: dict[str, Any] = {"rai:annotationsPerItem": NOT_RECORDED, "rai:machineAnnotationTools": NOT_RECORDED}
    if counts.questions:
        each = (f"{q.name}: {q.raters_text} for each of {q.items} items" for q in counts.questions)
        found["rai:annotationsPerItem"] = "; ".join(each)
        found["rai:machineAnnotationTools"] = counts.models or "none"
    shared = [q for q in counts.questions if q.shared]
    if shared and "analysis" not in facts:
        each = (f"{q.name}: {q.agreed} of {q.shared}" for q in shared)
        found["rai:dataAnnotationAnalysis"] = (
            f"Items with several raters to which all gave one answer: {'; '.join(each)}"
        )
    return found


def _distribution(folder: Path, unit: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for path in sorted((folder / "data" / unit).glob("*.parquet")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        parts.append(
            {
                "@type": "cr:FileObject",
                "@id": f"data/{unit}/{path.name}",
                "name": f"data/{unit}/{path.name}",
                "contentUrl": f"data/{unit}/{path.name}",
                "contentSize": f"{path.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": digest,
            }
        )
    together = {
        "@type": "cr:FileSet",
        "@id": f"{unit}-files",
        "name": f"{unit}-files",
        "encodingFormat": "application/x-parquet",
        "includes": f"data/{unit}/*.parquet",
    }
    return [*parts, together]


def _record_set(unit: str, schema: pa.Schema) -> dict[str, Any]:
    where = {
        "fileSet": {"@id": f"{unit}-files"},
        "extract": {"fileProperty": "fullpath"},
        "transform": {"regex": f"data/{unit}/(train|test)-.+parquet$"},
    }
    split = {"@type": "cr:Field", "@id": f"{unit}/split", "name": "split", "dataType": "sc:Text", "source": where}
    return {
        "@type": "cr:RecordSet",
        "@id": unit,
        "name": unit,
        "description": ABOUT[unit],
        "field": [split, *(_field(unit, column) for column in schema)],
    }


def _field(unit: str, column: pa.Field) -> dict[str, Any]:
    """A column; the members of a struct, or of each struct in a list, are sub-fields."""
    field = {"@type": "cr:Field", "@id": f"{unit}/{column.name}", "name": column.name}
    source = {"fileSet": {"@id": f"{unit}-files"}, "extract": {"column": column.name}}
    kind = column.type
    if pa.types.is_list(kind):
        field |= {"isArray": True, "arrayShape": "-1"}
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return field | {"dataType": _TYPES[kind], "source": source}
    inner = [
        {
            "@type": "cr:Field",
            "@id": f"{unit}/{column.name}/{member.name}".replace(" ", "_"),  # an id is part of a URI
            "name": member.name,
            "dataType": _TYPES[member.type],
            "source": source | {"transform": {"jsonPath": f"$['{member.name}']"}},
        }
        for member in kind
    ]
    return field | {"subField": inner}
