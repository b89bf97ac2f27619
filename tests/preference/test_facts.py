"""Public rows as facts, votes, contradictions and parts, all on rows written here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from poise.data.harm_part import HarmPart, harm_part
from poise.data.records import UNKNOWN, PartialLabel
from poise.errors import PoiseError
from poise.preference.facts import Fact, read_facts, source_of, thinned
from poise.preference.judged import Judged, count_votes, encode, messages_of, share_out
from poise.preference.part import about

SAFE, UNSAFE = PartialLabel(safe=True), PartialLabel(safe=False)
ASKED = (("user", "How do I fix a tap?"),)


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fact(*responses: str, **said: Any) -> Fact:
    labels = said.pop("labels", (UNKNOWN,) * len(responses))
    return Fact(**({"name": "s:1", "conversation": ASKED, "responses": responses, "better": None, "safer": None,
                    "labels": labels, "test": False} | said))  # fmt: skip


def only(facts: list[Fact]) -> tuple[Judged, Counter[str]]:
    dropped: Counter[str] = Counter()
    (judged,) = count_votes(facts, dropped)
    return judged, dropped


def dual(**changes: Any) -> dict[str, Any]:
    row = {"prompt": "P", "response_0": "a", "response_1": "b", "is_response_0_safe": True}
    return row | {"is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0} | changes


@pytest.mark.parametrize(
    ("use", "better", "safer", "known"), [("reward", 1, None, 0), ("cost", None, 0, 2), ("both", 1, 0, 2)]
)
def test_a_dual_set_is_read_for_what_the_recipe_says(
    tmp_path: Path, use: str, better: int | None, safer: int | None, known: int
) -> None:
    write(tmp_path / "mine.jsonl", dual())
    (got,) = read_facts(source_of("mine", tmp_path, {}), use, Counter())
    assert (got.better, got.safer) == (better, safer)
    assert sum(label.safe is not None for label in got.labels) == known


def test_single_choices_and_corrections_are_about_what_the_recipe_says(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", {"prompt": "P", "chosen": "good", "rejected": "bad"})
    write(tmp_path / "fixes.jsonl", {"question": "P", "answer": "bad", "correction": "good"})
    for name in ("pairs", "fixes.jsonl"):
        source = source_of(name, tmp_path, {})
        (help_,), (harm,) = (list(read_facts(source, use, Counter())) for use in ("reward", "cost"))
        assert help_.better is not None and help_.safer is None and help_.responses[help_.better] == "good"
        assert harm.safer is not None and harm.better is None and harm.responses[harm.safer] == "good"


def test_what_is_of_no_use_is_counted(tmp_path: Path) -> None:
    write(tmp_path / "s.jsonl", dual(better_response_id=None), dual(response_1="a"), dual(response_0=" "), dual())
    dropped: Counter[str] = Counter()
    assert len(list(read_facts(source_of("s", tmp_path, {}), "reward", dropped))) == 1
    assert sum(dropped.values()) == 3
    assert dropped["s: says nothing about reward"] == 1


def test_a_set_that_is_not_there_and_one_of_unknown_columns(tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", {"x": 1})
    with pytest.raises(PoiseError, match=r"no set 'pears'.*did you mean 'pairs'"):
        source_of("pears", tmp_path, {})
    with pytest.raises(PoiseError, match=r"no known format has the columns 'x'.*data.formats"):
        source_of("pairs", tmp_path, {})
    assert source_of("pairs", tmp_path, {"pairs": "trl-preference"}).format.name == "trl-preference"


def test_votes_decide_and_ties_are_unknown() -> None:
    judged, dropped = only([fact("a", labels=(SAFE,)), fact("a", labels=(SAFE,)), fact("a", labels=(UNSAFE,))])
    assert judged.answers[0].unsafe is False
    judged, dropped = only([fact("a", labels=(SAFE,)), fact("a", labels=(UNSAFE,))])
    assert judged.answers[0].unsafe is None
    assert dropped == {"votes about label that tie": 1}


def test_pairs_in_either_order_are_one_and_contradictions_cancel() -> None:
    judged, _ = only([fact("a", "b", better=0), fact("b", "a", better=1)])
    assert [(c.better, c.safer) for c in judged.choices] == [(0, None)]
    judged, dropped = only([fact("a", "b", better=0), fact("b", "a", better=0)])
    assert judged.choices == []
    assert dropped == {"votes about better that tie": 1}


def test_a_choice_against_the_labels_is_left_out() -> None:
    judged, dropped = only([fact("a", "b", safer=0, better=1, labels=(UNSAFE, SAFE))])
    assert [(c.better, c.safer) for c in judged.choices] == [(1, None)]
    assert list(dropped) == ["choices of an unsafe response as safer than a safe one"]


def words(*texts: str) -> list[Judged]:
    facts = [fact("a", labels=(SAFE,), conversation=(("user", text),), test="given" in text) for text in texts]
    return count_votes(facts, Counter())


def test_parts_keep_near_duplicates_together_and_what_is_given() -> None:
    base = "Tell me the long and winding story of the town of number"
    judged = words(*(f"{base} {n}, and why its name is {n * 7}!" for n in range(40)), "a given test prompt")
    parts = share_out(judged, 0.3, 0.2, seed=1)
    assert sum(map(len, parts.values())) == 41
    assert any(entry.conversation[0][1] == "a given test prompt" for entry in parts["test"])
    assert len([part for part in parts.values() for entry in part[:1] if base in entry.conversation[0][1]]) == 1
    apart = words(*(f"{n} {chr(97 + n % 26) * 9} {n * n} question about topic {n * 31}" for n in range(200)))
    shares = {part: len(rows) / 200 for part, rows in share_out(apart, 0.3, 0.2, seed=1).items()}
    assert 0.2 < shares["test"] < 0.4 and 0.1 < shares["validation"] < 0.3


def test_rows_are_thinned_by_whole_prompts() -> None:
    facts = [fact("a", conversation=(("user", f"p{n // 3}"),)) for n in range(30)]
    kept = thinned(facts, 10, seed=0)
    counts = Counter(f.conversation for f in kept)
    assert set(counts.values()) == {3} and len(kept) == 9
    assert kept == thinned(facts, 10, seed=0) != thinned(facts, 10, seed=1)
    assert thinned(facts, 0, seed=0) == facts


def test_tokens_pairs_rungs_and_labels_alone(make_trunk: Any) -> None:
    trunk = make_trunk()
    severe = PartialLabel(safe=False, severity=3, categories=("Violence",))
    minor = PartialLabel(safe=False, severity=1, categories=("Violence",))
    judged, _ = only(
        [
            fact("first answer", "second", safer=0, labels=(minor, severe)),
            fact("third", labels=(SAFE,)),
            fact("third", "second", better=0),
            fact("nobody said anything of this"),
        ]
    )
    cut: Counter[str] = Counter()
    data = encode(trunk, [judged], "", 6, 2, cut)
    assert [p.rung for p in data.pairs] == ["severity", "boundary"]
    assert data.alone == [[2]] and data.prompts == [[0, 1]]
    assert [e.unsafe for e in data.examples] == [True, True, False]
    assert all(len(e.prompt) <= 6 and len(e.response) <= 3 for e in data.examples)
    assert all(e.response[-1] == trunk.tokenizer.eos_token_id for e in data.examples)
    assert cut["prompts"] == 1 and cut["responses"] >= 1


def test_a_conversation_keeps_its_own_system_message() -> None:
    assert messages_of(ASKED, "Be kind.")[0] == {"role": "system", "content": "Be kind."}
    own = (("system", "Mine."), *ASKED)
    assert messages_of(own, "Be kind.")[0]["content"] == "Mine."
    assert messages_of(ASKED, "") == [{"role": "user", "content": ASKED[0][1]}]


VIOLENT = PartialLabel(safe=False, categories=("Violence",), severity=2)
DRUGS = PartialLabel(safe=False, categories=("Drugs",), severity=3)


@pytest.mark.parametrize(
    ("labels", "safer", "unsafe", "kept"),
    [
        ((VIOLENT, SAFE), 1, [True, False], 1),
        ((VIOLENT, DRUGS), 0, [True, False], 1),  # drugs are worse over all harm, but they are no violence
        ((SAFE, DRUGS), 0, [False, False], None),  # alike in the part
        ((VIOLENT, VIOLENT), 0, [True, True], None),
        ((VIOLENT, UNSAFE), 0, [True, None], None),  # harmful, nobody said how
    ],
)
def test_a_part_of_the_policy_has_its_own_signs_and_order(
    labels: tuple[PartialLabel, PartialLabel], safer: int, unsafe: list[bool | None], kept: int | None
) -> None:
    dropped: Counter[str] = Counter()
    got = about(fact("a", "b", better=0, safer=safer, labels=labels), harm_part(["S6"]), dropped)
    assert got is not None and got.better == 0 and got.safer == kept
    assert [None if label.safe is None else not label.safe for label in got.labels] == unsafe
    assert sum(n for reason, n in dropped.items() if reason.startswith("orders")) == (kept is None)
    assert dropped["labels that do not tell of the cost model's part"] == unsafe.count(None)


def test_severity_is_a_part_and_all_harm_changes_nothing() -> None:
    dropped: Counter[str] = Counter()
    row = fact("a", labels=(VIOLENT,))
    for level, safe in (("moderate", False), ("severe", True)):
        got = about(row, harm_part((), level), dropped)
        assert got is not None and got.labels[0].safe is safe
    assert about(row, HarmPart(), dropped) is row and not dropped
    assert about(fact("a", labels=(UNSAFE,)), harm_part(["S6"]), dropped) is None
