"""Data on which other libraries and publications have been computed."""

from __future__ import annotations

import pytest

from poise.annotate.agreement import Ratings, ratings_of

KRIPPENDORFF = ("1233 2141 2...", "1233 2241 25.3", ".333 2342 251.", "1233 2441 251.")
"""Observers A to D on twelve units, from Krippendorff (2011), section E; blanks are there for the eye only."""
MADE_UP = (
    ".3303 11111 1..1. 1102. 33.33 00.11 .0002 213.0 ...00 11111 1.10. .02.. 00020 ..22. 33.33 33.33 .22.1 30330 1...2 "
    ".0022 2..20 11112 111.. ..223 ...11 02220 0.00. 0.200 0.0.. 2100. 3.0.. 3133. 3...3 3332. .00.0 ..33. .11.1 2..20 "
    "20020 0.0.0 1..10 131.. 233.0 0303. 222.3 33..3 .0101 101.0 1.232 00032 .3..2 11.1. 11.1. 222.2 ..1.1 ..22. 3.33. "
    ".00.0 200.."
)
"""59 items by five raters with four values, a dot for none."""
MADE_UP_SETS = (
    ".999c 1341a c..2. 0010. e9.ce 01.31 .1190 654.5 ...11 00227 1.2a. .10.. 11011 ..44. c8.18 41.16 .24.4 0880a 6...2 "
    ".8044 7..45 02624 682.. ..c10 ...00 04044 1.08. 7.900 1.0.. 4065. 8.8.. 0860. 8...8 8d00. .18.1 ..88. .02.0 4..05 "
    "20194 0.5.3 3..aa 228.. c05.0 a28a. c04.0 28..4 .1060 a22.6 4.50e 01303 .4..6 49.6. b2.3. 505.0 ..2.0 ..00. c.a8. "
    ".45.4 225.."
)
"""The same as sets of four names, bit masks in hexadecimal."""


@pytest.fixture
def published() -> Ratings:
    """Krippendorff's four observers."""
    rows = [row.replace(" ", "") for row in KRIPPENDORFF]
    return ratings_of([(u, o, None if c == "." else int(c)) for o, row in enumerate(rows) for u, c in enumerate(row)])


@pytest.fixture
def made_up() -> Ratings:
    """Five raters; rater i is at position i."""
    return _read(MADE_UP, 10)


@pytest.fixture
def made_up_sets() -> Ratings:
    """Five raters of sets."""
    return _read(MADE_UP_SETS, 16)


def _read(text: str, base: int) -> Ratings:
    cells = [(i, r, c) for i, word in enumerate(text.split()) for r, c in enumerate(word)]
    rows = [(i, r, None if c == "." else int(c, base)) for i, r, c in cells]
    return ratings_of(rows, scale="set" if base == 16 else "nominal")
