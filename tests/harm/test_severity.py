"""Severity levels: order and reading them from numbers and names."""

from __future__ import annotations

import pytest

from poise.harm import Severity


def test_levels_are_ordered() -> None:
    assert [int(s) for s in Severity] == [0, 1, 2, 3]
    assert Severity.NONE < Severity.MINOR < Severity.MODERATE < Severity.SEVERE
    assert [s.label for s in Severity] == ["none", "minor", "moderate", "severe"]


@pytest.mark.parametrize("level", list(Severity))
def test_parse_round_trips(level: Severity) -> None:
    for spelling in (level, int(level), level.label, level.name, f" {level.label.title()} "):
        assert Severity.parse(spelling) is level


@pytest.mark.parametrize("wrong", [True, False, 4, -1, "x", "", "2", 1.0, None, [1]])
def test_parse_refuses(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"is not one of 0\.\.3 or none, minor, moderate, severe") as caught:
        Severity.parse(wrong)
    assert repr(wrong) in str(caught.value)
