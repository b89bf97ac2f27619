"""One verdict from several imported ones: the majority, and a tie is no verdict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poise.annotate.aggregate import MAJORITY, majority_safe
from poise.data import Judgement
from poise.data.rows import label_value
from poise.harm import SAFE, Label


def flag(item: str, value: bool | None, rater: str = "r") -> Judgement:
    return Judgement(item=item, question="safe", value=value, rater=rater)


def test_majority_and_tie() -> None:
    log = [flag("a", True), flag("b", False), flag("a", True), flag("b", True), flag("a", False), flag("c", False)]
    out, rule, ties = majority_safe(log)
    assert {j.item: j.value for j in out} == {"a": True, "b": None, "c": False}
    assert [j.reason for j in out] == ["2 of 3 say safe", "1 of 2 say safe", "0 of 1 say safe"]
    assert {j.question for j in out} == {"safe"}
    assert rule == MAJORITY
    assert {j.rater for j in out} == {rule.id}
    assert ties == 1


def test_labels_vote_and_unjudged_or_other_rows_do_not() -> None:
    log = [
        Judgement(item="a", question="label", value=label_value(Label.of(["S6"], 1)), rater="r"),
        Judgement(item="b", question="label", value=label_value(SAFE), rater="r"),
        Judgement(item="a", question="label", value=None, rater="r"),
        flag("c", None),
        Judgement(item="d", question="safer", value=1, rater="r"),
    ]
    out, _, ties = majority_safe(log)
    assert {j.item: j.value for j in out} == {"a": False, "b": True}
    assert ties == 0
    assert majority_safe([]) == ([], MAJORITY, 0)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_order_does_not_matter_and_opposites_mirror(votes: list[bool]) -> None:
    def verdict(flags: list[bool]) -> bool | None:
        (judgement,), _, ties = majority_safe([flag("a", v) for v in flags])
        assert ties == (judgement.value is None)
        value: bool | None = judgement.value
        return value

    value = verdict(votes)
    assert verdict(sorted(votes)) == value
    assert verdict([not v for v in votes]) == (None if value is None else not value)
    assert (value is None) == (votes.count(True) == votes.count(False))
