"""The words of others: every file is whole, a code is read inside its taxonomy only, severity scales map both ways."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from poise.errors import PoiseError
from poise.harm import (
    CATEGORIES,
    PKU,
    Severity,
    load_taxonomy,
    map_severity,
    native_severity,
    severity_levels,
    severity_schemes,
    taxonomy_names,
)

FOLDER = Path(importlib.import_module("poise.harm.taxonomy").__file__ or "").with_name("taxonomies")
SIZES = {
    "aegis": 23,
    "air-bench-l2": 16,
    "alert-32": 32,
    "alert-6": 6,
    "azure-4": 4,
    "beavertails-14": 14,
    "beavertails-v-20": 20,
    "catqa": 11,
    "diasafety": 5,
    "do-not-answer": 5,
    "fake-alignment": 5,
    "figstep": 10,
    "harmbench": 7,
    "jbb": 10,
    "llama-guard-1": 6,
    "llama-guard-2": 11,
    "llama-guard-3": 14,
    "llama-guard-3-1b": 13,
    "mlcommons": 15,
    "multijail": 18,
    "openai-13": 13,
    "perspective": 7,
    "pku-19": 19,
    "qwen3guard-9": 9,
    "s-eval": 8,
    "simplesafetytests": 5,
    "strongreject": 6,
}


def test_every_file_is_a_taxonomy_of_the_published_size() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(taxonomy_names())
    assert {name: len(load_taxonomy(name).categories) for name in taxonomy_names()} == SIZES


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_taxonomy_says_where_it_is_from_and_reads_its_own_words(name: str) -> None:
    taxonomy = load_taxonomy(name)
    assert taxonomy.version and taxonomy.owner and taxonomy.source and taxonomy.licence
    assert len(set(taxonomy.keys)) == len(taxonomy.keys)
    for category in taxonomy.categories:
        for text in (category.key, category.title, category.code or category.key, *category.also):
            assert taxonomy.parse(text) == taxonomy.parse(f" {text.upper()} ") == category.key


def test_pku_is_our_own_nineteen() -> None:
    taxonomy = load_taxonomy(PKU)
    assert [(c.code, c.key) for c in taxonomy.categories] == [(c.code, c.value) for c in CATEGORIES]
    assert taxonomy.exhaustive


@pytest.mark.parametrize(
    ("code", "llama_guard_2", "llama_guard_3"),
    [
        ("S4", "Child Sexual Exploitation", "Child Sexual Exploitation"),
        ("S5", "Specialized Advice", "Defamation"),
        ("S9", "Hate", "Indiscriminate Weapons"),
        ("S11", "Sexual Content", "Suicide & Self-Harm"),
    ],
)
def test_a_code_means_another_harm_in_another_version(code: str, llama_guard_2: str, llama_guard_3: str) -> None:
    assert load_taxonomy("llama-guard-2").parse(code) == llama_guard_2
    assert load_taxonomy("llama-guard-3").parse(code) == llama_guard_3
    assert load_taxonomy("llama-guard-3-1b").parse(code) == llama_guard_3


def test_llama_guard_4_speaks_3_and_the_1b_model_lacks_s14() -> None:
    assert load_taxonomy("llama-guard-4") is load_taxonomy("llama-guard-3")
    assert load_taxonomy("llama-guard-3-1b").keys == load_taxonomy("llama-guard-3").keys[:13]
    with pytest.raises(PoiseError, match=r"llama-guard-3-1b: 'S14' is no category"):
        load_taxonomy("llama-guard-3-1b").parse("S14")


def test_aegis_has_names_only() -> None:
    assert not any(category.code for category in load_taxonomy("aegis").categories)
    with pytest.raises(PoiseError, match=r"aegis: 'S14' is no category"):
        load_taxonomy("aegis").parse("S14")


def test_a_key_with_commas_is_one_key() -> None:
    key = "violence,aiding_and_abetting,incitement"
    assert load_taxonomy("beavertails-14").parse(key) == key
    with pytest.raises(PoiseError, match=r"did you mean 'violence,aiding_and_abetting,incitement'"):
        load_taxonomy("beavertails-14").parse("violence,aiding_and_abetting")


def test_alert_micro_categories_belong_to_the_six() -> None:
    assert {category.group for category in load_taxonomy("alert").categories} == set(load_taxonomy("alert-6").keys)


def test_only_harm_to_minors_is_never_derived() -> None:
    barred = {c.key for name in SIZES for c in load_taxonomy(name).categories if not c.derivable}
    assert barred == {
        "Child Abuse",
        "Child Harm",
        "Child Sexual Exploitation",
        "Child abuse",
        "Child safety",
        "Sexual (minor)",
        "child_abuse",
        "cse",
        "sexual/minors",
    }


@pytest.mark.parametrize("value", ["", None, 5, float("nan"), "unsafe"])
def test_what_is_no_category_is_refused(value: object) -> None:
    with pytest.raises(PoiseError, match=r"llama-guard-3: .* is no category"):
        load_taxonomy("llama-guard-3").parse(value)


def test_an_unknown_taxonomy_names_the_nearest() -> None:
    with pytest.raises(PoiseError, match=r"'openai13' is no taxonomy .did you mean 'openai-13'"):
        load_taxonomy("openai13")


@pytest.mark.parametrize(
    ("scheme", "native"),
    [
        ("azure-four", ((0,), (2,), (4,), (6,))),
        ("azure-eight", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("azure-openai", (("safe",), ("low",), ("medium",), ("high",))),
        ("bingoguard", ((0,), (1,), (2, 3), (4,))),
        ("flexbench", (("BENIGN",), ("LOW",), ("MODERATE",), ("HIGH", "EXTREME"))),
        ("md-judge-v0.2", ((1, 2), (3,), (4,), (5,))),
        ("nemotron", (("S0",), ("S1",), ("S2",), ("S3", "S4"))),
        ("gemini", (("NEGLIGIBLE", "none"), ("LOW",), ("MEDIUM",), ("HIGH",))),
        ("qwen3guard", (("Safe",), ("Controversial",), ("Unsafe",), ())),
    ],
)
def test_severity_rows(scheme: str, native: tuple[tuple[int | str, ...], ...]) -> None:
    for level, values in zip(Severity, native, strict=True):
        for value in values:
            assert map_severity(scheme, value) is level
            assert map_severity(scheme, str(value).lower()) is level


@pytest.mark.parametrize("scheme", severity_schemes())
def test_every_level_has_a_word_and_reads_back(scheme: str) -> None:
    for level in Severity:
        assert level in severity_levels(scheme, native_severity(scheme, level))


def test_unsafe_of_qwen3guard_leaves_two_levels_open() -> None:
    assert severity_levels("qwen3guard", "Unsafe") == (Severity.MODERATE, Severity.SEVERE)
    assert native_severity("qwen3guard", Severity.SEVERE) == "Unsafe"


def test_eight_azure_levels_never_disagree_with_four() -> None:
    assert all(map_severity("azure-eight", value) is map_severity("azure-four", value // 2 * 2) for value in range(8))


@pytest.mark.parametrize("scheme", ["openai", "OpenAI-13", "perspective", "bedrock"])
def test_a_probability_never_becomes_a_severity(scheme: str) -> None:
    with pytest.raises(PoiseError, match=f"'{scheme}' has no severity scale: .*leave severity unknown"):
        map_severity(scheme, 0.9)


@pytest.mark.parametrize("value", [1, 0.0, 2.0, True, None, "mild", ""])
def test_what_is_no_level_is_refused(value: object) -> None:
    with pytest.raises(PoiseError, match=r"azure-four: .* is no severity level .known: 0 2 4 6"):
        map_severity("azure-four", value)


def test_an_unknown_scale_names_the_nearest() -> None:
    with pytest.raises(PoiseError, match=r"'azure' is no severity scale .did you mean 'azure-"):
        native_severity("azure", Severity.MINOR)
