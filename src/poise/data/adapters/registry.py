"""All formats by name, the mappings that come with the package, and which of them reads which public set.

To add a format, add a file with a `Format` and a line to `FORMATS`; to add a set, a mapping file in
`poise/data/mappings/`, or a line to `SETS` where a format reads it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from poise.data.adapters.aligner import ALIGNER
from poise.data.adapters.argilla import ARGILLA, ARGILLA_DATASETS
from poise.data.adapters.base import Format
from poise.data.adapters.beavertails import BEAVERTAILS, BEAVERTAILS_EVALUATION
from poise.data.adapters.beavertails_v import BEAVERTAILS_V
from poise.data.adapters.label_studio import LABEL_STUDIO
from poise.data.adapters.mapping import mapping_of, parse_yaml
from poise.data.adapters.pku import PKU_DUAL, PKU_PROMPT, PKU_QA, PKU_SINGLE
from poise.data.adapters.transcripts import HH_RLHF, HH_RLHF_HARMLESS
from poise.data.adapters.trl import OPENAI_CHAT, TRL_PREFERENCE, TRL_UNPAIRED
from poise.errors import PoiseError

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        PKU_DUAL,
        PKU_SINGLE,
        PKU_QA,
        PKU_PROMPT,
        BEAVERTAILS,
        BEAVERTAILS_EVALUATION,
        BEAVERTAILS_V,
        HH_RLHF,
        HH_RLHF_HARMLESS,
        ALIGNER,
        TRL_PREFERENCE,
        TRL_UNPAIRED,
        OPENAI_CHAT,
        LABEL_STUDIO,
        ARGILLA,
        ARGILLA_DATASETS,
    )
}
"""Name -> format, in the order of the documentation."""

SETS: dict[str, str] = {
    "pku_saferlhf_19cat_sample": "pku-safe-rlhf",
    "pku_saferlhf_dual_sample": "pku-safe-rlhf",
    "beavertails_test": "beavertails",
    "beavertails_test_mt": "beavertails",
    "beavertails_evaluation": "beavertails-evaluation",
    "hh_harmless_base": "hh-rlhf-harmless",
}
"""Public sets, as they are often passed on, that a named format reads; all others have a mapping of their name."""


def format_of(name: str) -> Format:
    """The format, mapping or public set of that name.

    Raises:
        PoiseError: there is none; the message names the nearest one.
    """
    found = FORMATS.get(SETS.get(name, name)) or mappings().get(name)
    if found is None:
        near = get_close_matches(name, [*FORMATS, *SETS, *mappings()], n=1, cutoff=0)[0]
        raise PoiseError(f"no format {name!r}", do=f"did you mean {near!r}? See `poise data formats`")
    return found


def detect(row: Mapping[str, Any]) -> Format | None:
    """The named format whose columns a row has, None when none fits; of several the one that asks for most columns."""
    fitting = [
        form
        for form in FORMATS.values()
        if all(column in row for column in form.columns) and (not form.sign or any(c in row for c in form.sign))
    ]
    most = max((len(form.columns) for form in fitting), default=0)
    best = [form for form in fitting if len(form.columns) == most]
    return best[0] if len(best) == 1 else None


@cache
def mappings() -> dict[str, Format]:
    """The mappings that come with the package, by name of the set."""
    found = {}
    for file in sorted(files("poise.data").joinpath("mappings").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            form = mapping_of(parse_yaml(file.read_text(encoding="utf-8")), file.name)
            found[form.name] = form
    return found
