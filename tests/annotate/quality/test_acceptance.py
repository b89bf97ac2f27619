"""Acceptance sampling against values by hand, brute force and simulation."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.annotate.quality import decide, sample_size, upper_bound
from poise.cli.main import main
from poise.errors import PoiseError


def test_values_by_hand() -> None:
    """Of a large batch the bound after n without an error is 1 - .05^(1/n), about 3/n (the rule of three)."""
    for n in (59, 149, 299):
        assert upper_bound(10_000_000, n, 0) == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-3)
    # Clopper & Pearson, one-sided 95 %, 2 of 100: the beta quantile (3, 98) at .95 is .06162
    assert upper_bound(10_000_000, 100, 2) == pytest.approx(0.0616, abs=1e-4)
    assert upper_bound(50, 50, 3) == 3 / 50, "all were checked"
    assert upper_bound(50, 0, 0) == 1.0
    assert sample_size(10_000_000, 0.05) == 59
    # with 3 wrong of 100, none is seen with probability (100-n)(99-n)(98-n) / 970,200: .0522 at 62, .0481 at 63
    assert sample_size(100, 0.02) == 63


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_the_bound_is_the_largest_that_fits(batch: int, data: st.DataObject) -> None:
    checked = data.draw(st.integers(0, batch))
    errors = data.draw(st.integers(0, checked))

    def likely(wrong: int) -> bool:
        ways = sum(comb(wrong, k) * comb(batch - wrong, checked - k) for k in range(errors + 1) if checked >= k)
        return ways / comb(batch, checked) > 0.05 * (1 + 1e-9)

    fits = [w for w in range(errors, batch - checked + errors + 1) if likely(w)]
    assert upper_bound(batch, checked, errors) * batch == pytest.approx(max(fits, default=errors))


def test_a_batch_over_the_limit_is_accepted_at_most_one_time_in_twenty() -> None:
    chance, batch, limit = np.random.default_rng(0), 2000, 0.02
    n = sample_size(batch, limit, errors=1)
    seen = chance.hypergeometric(int(limit * batch) + 1, batch - int(limit * batch) - 1, n, size=4000)
    accepted = np.mean([decide(batch, limit, n, int(c)).action == "accept" for c in np.minimum(seen, 20)])
    assert 0.01 < accepted < 0.06


def test_what_to_do_next() -> None:
    more = decide(1000, 0.02, 40, 0)
    assert more.action == "check more" and more.more == sample_size(1000, 0.02) - 40
    assert decide(1000, 0.02, 40 + more.more, 0).action == "accept"
    assert decide(1000, 0.02, 100, 21).action == "reject"
    with pytest.raises(PoiseError, match="2 errors of 1 checked"):
        upper_bound(10, 1, 2)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["annotate", "accept", "--batch", "1000", "--limit", "0.02"]) == 0
    assert f"check {sample_size(1000, 0.02)}" in capsys.readouterr().out
    assert main(["annotate", "accept", "--batch", "1000", "--limit", "0.02", "--checked", "200", "--errors", "0"]) == 0
    assert "accept" in capsys.readouterr().out
    assert main(["annotate", "accept", "--batch", "10", "--limit", "0.02", "--checked", "20"]) == 2
    assert main(["annotate", "accept", "--batch", "1000", "--limit", "0.02", "--checked", "100", "--errors", "30"]) == 1
