"""Quotas by cell and source."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poise.collect.grid import Cell, Grid, apportion
from poise.harm import CATEGORIES, Severity

A, B = (Cell(CATEGORIES[i], Severity.MINOR) for i in (0, 1))
SHARES = {"BeaverTails": 0.22, "Alpaca3-70B": 0.64, "WizardLM": 0.14}


def test_apportion_by_largest_remainder() -> None:
    # 10 x (0.22, 0.64, 0.14) = 2.2, 6.4, 1.4: two remainders of 0.4, the first one gets it
    assert apportion(10, SHARES) == {"BeaverTails": 2, "Alpaca3-70B": 7, "WizardLM": 1}
    assert apportion(0, SHARES) == dict.fromkeys(SHARES, 0)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=57))
def test_small_quotas_together_keep_the_shares(quotas: list[int]) -> None:
    """What one cell rounds away another one gets: over all cells each source is within two of its share."""
    cells = [Cell(c, s) for c in CATEGORIES for s in (Severity.MINOR, Severity.MODERATE, Severity.SEVERE)]
    grid = Grid(dict(zip(cells, quotas, strict=False)), SHARES)
    for cell, quota in grid.quotas.items():
        assert sum(grid.wanted(cell, name) for name in SHARES) == quota
    for name, share in SHARES.items():
        assert abs(sum(grid.wanted(cell, name) for cell in grid.quotas) - share * sum(quotas)) < 2


def test_the_emptiest_cell_comes_first_and_a_full_one_takes_no_more() -> None:
    grid = Grid({A: 2, B: 4}, {"m": 1.0})
    assert grid.emptiest("m") == [A, B]
    assert grid.add(A, "m") and grid.emptiest("m") == [B, A]  # half full against empty
    assert grid.add(A, "m") and not grid.add(A, "m")
    assert grid.emptiest("m") == [B] and not grid.full
    assert all(grid.add(B, "m") for _ in range(4)) and grid.full
    assert grid.table()[0] == {"cell": "S1-minor", "quota": 2, "have": 2, "m": 2}


def test_what_a_source_cannot_bring_goes_to_the_others() -> None:
    grid = Grid({A: 10}, {"set": 0.5, "x": 0.3, "y": 0.2})
    assert grid.add(A, "set")
    grid.hand_over("set", {"x": 0.3, "y": 0.2})  # four are missing: 2.4 and 1.6
    assert [grid.wanted(A, name) for name in ("set", "x", "y")] == [1, 5, 4]
