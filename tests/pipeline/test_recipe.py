"""Reading recipes: what is accepted, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_stages import STAGES, Numbers

from poise.errors import PoiseError
from poise.pipeline import load_recipe
from poise.pipeline.yamlfile import dump, parse


def _load(tmp_path: Path, text: str | bytes, *overrides: str):
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path, STAGES, overrides)


def _error(tmp_path: Path, text: str | bytes, *overrides: str) -> str:
    with pytest.raises(PoiseError) as caught:
        _load(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(tmp_path / "r.yaml"), "FILE")


def test_order_comes_from_the_table_and_defaults_from_the_code(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "total:\nname: x\nnumbers: {scale: 1e-5, tags: [a, no], limit: 3}\n")
    assert list(recipe.settings) == ["numbers", "total"]
    assert recipe.settings["numbers"] == Numbers(scale=1e-5, tags=("a", "no"), limit=3)
    assert (recipe.seed, recipe.models["encoder"]) == (0, "all-minilm-l6-v2")


def test_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = _load(tmp_path, "\ufeffname: x\nnumbers: {scale: 2.5e-7, tags: ['1e-5', 'yes', '010', '']}\nreport:\n")
    again = _load(tmp_path, recipe.to_yaml())
    assert again == recipe and "temperature: 1.0" in recipe.to_yaml()


def test_overrides_are_yaml_values_checked_like_the_file(tmp_path: Path) -> None:
    text = "name: x\nnumbers: {count: 4, sampling: }\n"
    recipe = _load(
        tmp_path, text, "numbers.count=9", "numbers.sampling.temperature=0.5", "seed=3", "models.policy=me/mine"
    )
    assert recipe.settings["numbers"].model_dump()["sampling"] == {"temperature": 0.5}
    assert (recipe.settings["numbers"].count, recipe.seed, recipe.models["policy"]) == (9, 3, "me/mine")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("numbers.count=ten", "--set numbers.count=ten: numbers.count: got 'ten', expected a valid integer"),
        ("numbers.cuont=1", "--set numbers.cuont=1: numbers.cuont: unknown key; did you mean 'count'?"),
        ("total.kind=sum", "--set total.kind=sum: stage 'total' is not in this recipe"),
        ("numbers.count", "--set numbers.count: write it as section.key=value"),
        ("numbers.count.x=1", "--set numbers.count.x=1: numbers.count.x: 'count' is not a section"),
    ],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    assert _error(tmp_path, "name: x\nnumbers: {count: 4}\n", override) == f"FILE: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE: is empty (a recipe needs a name and at least one stage)"),
        ("- a\n", "FILE: holds a list at its top level (write `name: ...` and stage sections)"),
        ("just text", "FILE: holds a single value at its top level (write `name: ...` and stage sections)"),
        (b"name: \xff\n", "FILE: is not UTF-8 text (byte 0xff at position 6) (save it as UTF-8)"),
        ("name: x\n\tnumbers: {}\n", "FILE: line 2: no valid YAML: found character '\\t' that cannot start any token"),
        ("name: \x01", "FILE: no valid YAML: special characters are not allowed"),
        ("a: &a [*a]", "FILE: no valid YAML: line 1: an alias contains itself"),
        ("a: " + "[" * 1500, "FILE: no valid YAML: nested too deeply"),
        ("name: x\n", "FILE: names no stage; valid are numbers, total, report"),
        ("numbers: {}\n", "FILE: name: is missing"),
        ("name: x\nnumbres: {}\n", "FILE: line 2: numbres: unknown key; did you mean 'numbers'?"),
        ("name: x\ntotal: {zzz: 1}", "FILE: line 2: total.zzz: unknown key; valid are kind"),
        ("name: x\nreport: {zzz: 1}", "FILE: line 2: report.zzz: unknown key; valid are none"),
        (
            "name: x\nnumbers:\n  sampling:\n    temprature: 1\n",
            "FILE: line 4: numbers.sampling.temprature: unknown key; did you mean 'temperature'?",
        ),
        ("name: x\nnumbers: {shout: yes}", "FILE: line 2: numbers.shout: got 'yes', expected a valid boolean"),
        ("name: x\nnumbers: {count: true}", "FILE: line 2: numbers.count: got True, expected a valid integer"),
        ("name: x\nnumbers:\n- 1", "FILE: line 2: numbers: expected a section with keys"),
        ("name: x\nnumbers:\n  tags:\n  - a\n  - 5", "FILE: line 5: numbers.tags.1: got 5, expected a valid string"),
        (
            "name: x\nnumbers: {limit: 1.5}",
            "FILE: line 2: numbers.limit: got 1.5, expected a valid integer or 'all'",
        ),
        ("name: x\ntotal: {kind: mean}", "FILE: line 2: total.kind: got 'mean', expected 'sum' or 'count'"),
        (
            "name: x\nnumbers: {scale: 1e999}",
            "FILE: line 2: numbers.scale: inf is not a finite number",
        ),
        ("name: x\nnumbers: {1: 2}", "FILE: line 2: numbers.1: a key must be text; put it in quotes"),
        (
            "name: x\nnumbers: {scale: !!timestamp 2020-01-01}",
            "FILE: line 2: numbers.scale: a YAML date cannot be used here; use text, numbers, true, false, lists",
        ),
        ("name: x\ntotal: {}\ntotal: {}", "FILE: line 3: total: key given twice, first in line 2"),
        ("name: ../x\ntotal: {}", "FILE: line 1: name: got '../x': string should match pattern"),
    ],
)
def test_each_mistake_says_where_and_what(tmp_path: Path, text: str | bytes, message: str) -> None:
    assert _error(tmp_path, text).startswith(message)


def test_all_problems_at_once_in_file_order(tmp_path: Path) -> None:
    text = "seed: -1\nnumbers:\n  count: x\n  count: 1\nfoo: 1\n"
    assert _error(tmp_path, text, "numbers.scale=big").splitlines() == [
        "FILE: 5 problems",
        "  name: is missing",
        "  line 1: seed: got -1, expected greater than or equal to 0",
        "  line 4: numbers.count: key given twice, first in line 3",
        "  line 5: foo: unknown key; valid are name, seed, models, numbers, total, report",
        "  --set numbers.scale=big: numbers.scale: got 'big', expected a valid number",
    ]


def test_a_section_of_one_kind_or_another(tmp_path: Path) -> None:
    text = "name: x\nnumbers:\n  method: {kind: slow, stpes: 1}\n"
    assert _error(tmp_path, text) == "FILE: line 3: numbers.method.stpes: unknown key; did you mean 'steps'?"
    text = "name: x\nnumbers:\n  method: {kind: slow, steps: " + "x" * 100 + "}\n"
    assert _error(tmp_path, text).startswith("FILE: line 3: numbers.method.steps: got 'xxx") and "...," in _error(
        tmp_path, text
    )
    text = "name: x\nnumbers:\n  method: {steps: 1}\n"
    assert _error(tmp_path, text) == "FILE: line 3: numbers.method: does not say which kind it is"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no such file"):
        load_recipe(tmp_path / "none.yaml", STAGES)
    with pytest.raises(PoiseError, match="is a folder, not a recipe"):
        load_recipe(tmp_path, STAGES)
    with pytest.raises(PoiseError, match="cannot be read: ") as caught:
        load_recipe(tmp_path / ("x" * 5000), STAGES)
    assert caught.value.exit_code == 3


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "more than 20000 keys" in _error(tmp_path, "a0: &a0 [1]\n" + levels)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_LOOKALIKES = st.sampled_from(
    ["1e-5", "no", "010", "1:30", "~", "", "2020-01-01", "0x1f", ".5", "1_0", "on", "=", "<<"]
)


@given(st.dictionaries(st.text(max_size=5), _VALUES | _LOOKALIKES, max_size=4))
def test_dump_and_parse_are_inverse(value: dict[str, object]) -> None:
    assert parse(dump(value), "here").value == value
