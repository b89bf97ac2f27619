"""Fingerprints and manifests."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from toy_stages import STAGES as TOYS

from poise.pipeline.manifest import fingerprint
from poise.pipeline.stages import STAGES

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_ARGUMENTS = st.fixed_dictionaries(
    {
        "stage": st.text(max_size=4),
        "settings": st.dictionaries(st.text(max_size=3), _SCALARS, max_size=3),
        "seed": st.integers(0, 9),
        "models": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "inputs": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "version": st.sampled_from(["0.1.0", "0.2.0"]),
    }
)


@given(_ARGUMENTS, _ARGUMENTS, st.sampled_from(["stage", "settings", "seed", "models", "inputs", "version"]))
def test_fingerprint_depends_on_every_argument_and_on_nothing_else(
    one: dict[str, Any], other: dict[str, Any], name: str
) -> None:
    changed = {**one, name: other[name]}
    same = repr(changed[name]) == repr(one[name])  # repr, because 1 == True == 1.0
    if same:
        assert fingerprint(**changed) == fingerprint(**one)
    elif isinstance(one[name], dict) and sorted(map(repr, one[name].items())) == sorted(
        map(repr, changed[name].items())
    ):
        assert fingerprint(**changed) == fingerprint(**one)  # only the order of the keys differs
    else:
        assert fingerprint(**changed) != fingerprint(**one)


def test_the_tables_of_stages_are_sound() -> None:
    for table in (STAGES, TOYS):
        for position, (name, stage) in enumerate(table.items()):
            assert stage.name == name
            assert set(stage.needs) <= set(list(table)[:position]), f"{name} needs a later stage"
            config = stage.settings.model_config
            assert config.get("frozen") and config.get("extra") == "forbid"
            stage.settings()  # every setting has a default, so that `name: {}` is a valid section
