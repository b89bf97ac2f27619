"""The crosswalks: every file is total, signs invert, and no translation claims more than the row knew."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.errors import PoiseError
from poise.harm import (
    PKU,
    SETTING,
    Cell,
    Crosswalk,
    Relation,
    load_crosswalk,
    load_taxonomy,
    taxonomy_names,
    translate,
    translate_scores,
)

FOLDER = Path(importlib.import_module("poise.harm.crosswalk").__file__ or "").with_name("crosswalks")
OTHERS = [name for name in taxonomy_names() if name != PKU]
PAIRS = [(PKU, name) for name in OTHERS] + [(name, PKU) for name in OTHERS]
EVERY = frozenset(Relation)

pairs = pytest.mark.parametrize(("source", "target"), PAIRS, ids="->".join)


@st.composite
def flagged_rows(draw: st.DrawFn) -> tuple[Crosswalk, frozenset[str]]:
    crosswalk = load_crosswalk(*draw(st.sampled_from(PAIRS)))
    return crosswalk, draw(st.frozensets(st.sampled_from(crosswalk.source.keys), min_size=1))


def test_every_taxonomy_has_a_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == {*OTHERS, "severity"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_is_total_versioned_and_says_nothing_twice(name: str) -> None:
    crosswalk = load_crosswalk(PKU, name)
    assert [int(part) for part in crosswalk.version.split(".")]
    for taxonomy, named, declared in (
        (crosswalk.source, {cell.source for cell in crosswalk.cells}, set(crosswalk.unmapped)),
        (crosswalk.target, {cell.target for cell in crosswalk.cells}, set(crosswalk.unreached)),
    ):
        assert named | declared == set(taxonomy.keys)
        assert not named & declared
    ends = [(cell.source, cell.target) for cell in crosswalk.cells]
    assert len(set(ends)) == len(ends)
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    assert (raw["source"], raw["target"]) == (PKU, name)
    assert list(raw["cells"]) == list(crosswalk.source.keys)
    noted = {(category, key) for category, notes in raw.get("notes", {}).items() for key in notes}
    assert noted <= {*ends, *((category, "none") for category in crosswalk.unmapped)}
    assert all(crosswalk.unreached.values())


def test_signs_invert_and_inverting_twice_changes_nothing() -> None:
    assert [relation.inverse for relation in Relation] == ["=", ">", "<", "~"]
    assert all(relation.inverse.inverse is relation for relation in Relation)


@pairs
def test_the_way_back_is_the_same_file_turned_round(source: str, target: str) -> None:
    there, back = load_crosswalk(source, target), load_crosswalk(target, source)
    turned = back.inverse()
    assert set(turned.cells) == set(there.cells)
    assert (turned.unmapped, turned.unreached, turned.version) == (there.unmapped, there.unreached, there.version)
    assert {Cell(c.target, c.relation.inverse, c.source, c.note) for c in there.cells} == set(back.cells)


@pytest.mark.parametrize(
    ("target", "category", "cells"),
    [
        ("beavertails-14", "S1", "< terrorism,organized_crime; ~ controversial_topics,politics"),
        ("beavertails-14", "S19", "= animal_abuse"),
        ("mlcommons", "S3", "= hte"),
        ("mlcommons", "Drugs", "< ncr"),
        ("llama-guard-3", "S8", "= Privacy"),
        ("llama-guard-2", "S8", "= Privacy"),
        ("openai-13", "S2", "= harassment; ~ harassment/threatening"),
        ("openai-13", "S9", "< illicit"),
        ("aegis", "S18", "< Fraud/Deception; < Illegal Activity"),
        ("azure-4", "Copyright Issues", ""),
        ("azure-4", "S12", "~ Violence; ~ SelfHarm"),
        ("qwen3guard-9", "S7", "< Non-violent Illegal Acts"),
        ("llama-guard-1", "S5", ""),
    ],
)
def test_cells_by_hand(target: str, category: str, cells: str) -> None:
    found = [f"{cell.relation} {cell.target}" for cell in load_crosswalk(PKU, target).of(category)]
    assert "; ".join(found) == cells


def test_cells_read_from_either_end() -> None:
    crosswalk = load_crosswalk("openai-13", PKU)
    assert [f"{cell.relation} {cell.target}" for cell in crosswalk.of("violence/graphic")] == [
        "< Violence",
        "~ Animal Abuse",
    ]
    assert {cell.source for cell in crosswalk.into("S13")} == {"sexual", "sexual/minors"}


@pairs
def test_safe_stays_safe(source: str, target: str) -> None:
    crosswalk = load_crosswalk(source, target)
    result = translate((), crosswalk)
    assert result.categories == frozenset() and result.unsafe is False
    assert result.undecided == {key for key in crosswalk.target.keys if not crosswalk.into(key)}
    assert not result.possible and not result.lossy and not result.unmapped


@pairs
def test_no_single_category_becomes_safe(source: str, target: str) -> None:
    crosswalk = load_crosswalk(source, target)
    for key in crosswalk.source.keys:
        result = translate([key], crosswalk)
        assert result.unsafe and (result.categories is None or result.categories)


@given(flagged_rows(), st.frozensets(st.sampled_from(Relation)), st.data())
def test_no_row_claims_more_than_it_knows(
    row: tuple[Crosswalk, frozenset[str]], relations: frozenset[Relation], data: st.DataObject
) -> None:
    crosswalk, flagged = row
    known = data.draw(st.none() | st.frozensets(st.sampled_from(crosswalk.source.keys)))
    result = translate(flagged, crosswalk, known=known, relations=relations)
    assert result.unsafe is True and result.categories != frozenset()
    found = result.categories or frozenset()
    parts = (found, result.absent, result.undecided)
    assert frozenset().union(*parts) == set(crosswalk.target.keys)
    assert sum(map(len, parts)) == len(crosswalk.target.keys)
    assert result.possible <= result.undecided
    touched = {cell.target for key in flagged for cell in crosswalk.of(key)}
    assert found <= touched and not touched & result.absent
    assert all(cell.relation is not Relation.EQUAL for cell in result.lossy)
    less = translate(flagged, crosswalk, known=flagged, relations=relations)
    assert less.categories == result.categories and less.absent <= result.absent


@given(flagged_rows())
def test_signs_there_and_back_keep_a_category_that_is_equal(row: tuple[Crosswalk, frozenset[str]]) -> None:
    crosswalk, flagged = row
    there = translate(flagged, crosswalk)
    back = translate(there.categories, load_crosswalk(crosswalk.target.name, crosswalk.source.name))
    assert back.unsafe is True and back.categories != frozenset()
    equal = {cell.source for key in flagged for cell in crosswalk.of(key) if not cell.lossy}
    assert equal <= (back.categories or frozenset())


def test_what_a_beavertails_row_teaches() -> None:
    result = translate(["hate_speech,offensive_language", "animal_abuse"], load_crosswalk("beavertails-14", PKU))
    assert result.categories == {"Animal Abuse"}
    # The flagged hate speech is wider than Insulting and overlaps Discriminatory Behavior and Psychological Harm.
    assert result.possible == {"Insulting Behavior", "Discriminatory Behavior", "Psychological Harm"}
    # Absent: a category that holds it whole was judged and not flagged, nor was any other that touches it.
    assert result.absent == {
        "Endangering National Security",
        "Violence",
        "Drugs",
        "Privacy Violation",
        "Economic Crime",
        "Sexual Content",
        "White-Collar Crime",
    }
    # Merely overlapped by categories that are not flagged: in an unsafe row that excludes nothing.
    assert {"Cybercrime", "Human Trafficking", "Physical Harm"} <= result.undecided - result.possible
    assert {str(cell.relation) for cell in result.lossy} == {">", "~"}


def test_a_row_with_room_for_one_category_excludes_none() -> None:
    result = translate(["Privacy"], load_crosswalk("jbb", PKU))
    assert result.categories == {"Privacy Violation"} and not result.absent


def test_unsafe_without_a_word_for_it_is_unsafe_and_no_more() -> None:
    result = translate(["Copyright Issues"], load_crosswalk(PKU, "azure-4"))
    assert result.categories is None and result.unsafe is True
    assert result.unmapped == {"Copyright Issues"}
    assert result.absent == {"Hate", "Sexual", "Violence"} and result.undecided == {"SelfHarm"}


def test_an_overlap_sets_nothing_unless_asked() -> None:
    crosswalk = load_crosswalk(PKU, "azure-4")
    result = translate(["S12"], crosswalk)
    assert result.categories is None and result.possible == {"Violence", "SelfHarm"}
    asked = translate(["S12"], crosswalk, relations=EVERY)
    assert asked.categories == {"Violence", "SelfHarm"} and asked.lossy == result.lossy
    assert translate(["S12"], crosswalk, relations="=<") is result


def test_a_narrower_source_sets_its_wider_target() -> None:
    result = translate(["S7"], load_crosswalk(PKU, "openai-13"))
    assert result.categories == {"illicit"} and [cell.relation for cell in result.lossy] == [Relation.NARROWER]
    assert translate(["S7"], load_crosswalk(PKU, "openai-13"), relations=[Relation.EQUAL]).categories is None


@pytest.mark.parametrize("name", OTHERS)
def test_harm_to_minors_is_never_derived(name: str) -> None:
    crosswalk = load_crosswalk(PKU, name)
    barred = {category.key for category in crosswalk.target.categories if not category.derivable}
    everything = translate(crosswalk.source.keys, crosswalk, relations=EVERY)
    assert not barred & (everything.categories or frozenset())
    assert barred <= everything.undecided
    scores = translate_scores(dict.fromkeys(crosswalk.source.keys, 1.0), crosswalk)
    assert all(scores[key].probability == 0.0 and not scores[key].evaluated for key in barred)


def test_unsafe_of_unknown_category() -> None:
    result = translate(None, load_crosswalk("beavertails-14", PKU))
    assert (result.categories, result.unsafe) == (None, True)
    assert len(result.undecided) == 19


def test_a_null_is_not_a_no() -> None:
    crosswalk = load_crosswalk("openai-13", PKU)
    result = translate([], crosswalk, known=["hate", "hate/threatening", "sexual"])
    assert result.categories is None and result.unsafe is None
    # hate equals Discriminatory Behavior and all that touches it was judged; sexual/minors was not, so sexual is open.
    assert result.absent == {"Discriminatory Behavior"}
    assert translate([], crosswalk, known=crosswalk.source.keys).unsafe is False


def test_two_steps_carry_on_what_is_known() -> None:
    first = translate(["discrimination,stereotype,injustice"], load_crosswalk("beavertails-14", PKU))
    second = translate(first.categories, load_crosswalk(PKU, "qwen3guard-9"), known=first.absent)
    assert first.categories == {"Discriminatory Behavior"} and second.categories is None
    assert second.unsafe is True and second.possible == {"Unethical Acts"}
    # Each is equal to one of ours that is known to be absent, and nothing else of ours touches it.
    assert second.absent == {"PII", "Sexual Content or Sexual Acts"}


def test_codes_are_read_in_their_own_version() -> None:
    assert translate(["S9"], load_crosswalk("llama-guard-2", PKU)).categories == {"Discriminatory Behavior"}
    assert translate(["S9"], load_crosswalk("llama-guard-4", PKU)).categories is None
    assert translate(["S10"], load_crosswalk("llama-guard-4", PKU)).categories == {"Discriminatory Behavior"}


def test_scores_combine_by_noisy_or_and_never_by_a_sum() -> None:
    given_scores = {"S7": 0.5, "S9": 0.6, "S11": 0.0, "S14": 0.0, "S18": 0.0, "S4": 1.0}
    illicit = translate_scores(given_scores, load_crosswalk(PKU, "openai-13"))["illicit"]
    assert illicit.probability == pytest.approx(0.8)  # 1 - 0.5 * 0.4; S4 merely overlaps and does not count
    assert illicit.peak == 0.6 and illicit.relation is Relation.NARROWER and illicit.evaluated


def test_a_score_says_what_it_stands_on() -> None:
    scores = translate_scores({"S6": 1.5, "S12": 0.3, "S17": -1.0, "S2": 0.4}, load_crosswalk(PKU, "openai-13"))
    assert (scores["violence"].probability, scores["violence"].relation) == (1.0, Relation.EQUAL)
    assert (scores["violence/graphic"].relation, scores["violence/graphic"].evaluated) == (Relation.WIDER, False)
    assert scores["self-harm"].probability == pytest.approx(0.3) and scores["self-harm"].relation is Relation.OVERLAPS
    assert scores["self-harm"].evaluated  # both that touch it were given
    assert scores["sexual"].probability == 0.0 and not scores["sexual"].evaluated
    minors = scores["sexual/minors"]
    assert (minors.relation, minors.evaluated, minors.cells) == (None, False, ())


@given(st.sampled_from(PAIRS), st.data())
def test_scores_stay_probabilities_between_peak_and_one(pair: tuple[str, str], data: st.DataObject) -> None:
    crosswalk = load_crosswalk(*pair)
    scores = data.draw(st.dictionaries(st.sampled_from(crosswalk.source.keys), st.floats(-1, 2)))
    mapped = translate_scores(scores, crosswalk)
    assert tuple(mapped) == crosswalk.target.keys
    for score in mapped.values():
        assert 0.0 <= score.peak <= score.probability + 1e-12 <= 1.0 + 2e-12
        assert (score.relation is None) == (not score.cells)
        assert all((cell.relation in SETTING) == (score.relation in SETTING) for cell in score.cells)


def test_lossy_cells_carry_their_note() -> None:
    (cell,) = translate(["S19"], load_crosswalk(PKU, "mlcommons")).lossy
    assert cell == Cell("Animal Abuse", Relation.NARROWER, "vcr", "Animal abuse is named in its definition.")


def test_errors_say_what_to_do() -> None:
    crosswalk = load_crosswalk("beavertails-14", PKU)
    with pytest.raises(PoiseError, match=r"'beavertails' is no taxonomy .did you mean 'beavertails-14'"):
        load_crosswalk("beavertails", PKU)
    with pytest.raises(PoiseError, match=r"no crosswalk leads from 'azure-4' to 'openai-13' .*two steps"):
        load_crosswalk("azure-4", "openai-13")
    with pytest.raises(PoiseError, match=r"no crosswalk leads from 'pku-19' to 'pku-19'"):
        load_crosswalk(PKU, PKU)
    with pytest.raises(PoiseError, match=r"beavertails-14: 'Violence' is no category"):
        translate(["Violence"], crosswalk)
    with pytest.raises(PoiseError, match=r"'animal_abuse' is one name .give a set"):
        translate("animal_abuse", crosswalk)
    with pytest.raises(PoiseError, match=r"relations: '!' is no relation .one of: = < > ~"):
        translate([], crosswalk, relations=["!"])
    with pytest.raises(PoiseError, match=r"score of 'self_harm' is not a number"):
        translate_scores({"self_harm": float("nan")}, crosswalk)
    with pytest.raises(PoiseError, match=r"is no category"):
        crosswalk.into("self_harm")


def test_the_1b_crosswalk_is_that_of_llama_guard_3_without_s14() -> None:
    dropped = load_taxonomy("llama-guard-3").parse("S14")
    large = {cell for cell in load_crosswalk(PKU, "llama-guard-3").cells if cell.target != dropped}
    assert set(load_crosswalk(PKU, "llama-guard-3-1b").cells) == large
