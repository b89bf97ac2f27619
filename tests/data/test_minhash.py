"""MinHash: values worked by hand, the same bits from both back ends, and a rensa that is another."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data import minhash
from poise.data.minhash import (
    agreements,
    band_keys,
    blocks,
    choose,
    normal,
    rows_per_band,
    shared_count,
    shingle_sets,
    shingles,
    signatures,
    sketches,
    windows,
)
from poise.errors import PoiseError

TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=8)


@pytest.fixture
def fresh_choice() -> Iterator[None]:
    choose.cache_clear()
    yield
    choose.cache_clear()


def mixed(z: int) -> int:
    """The splitmix64 finaliser in Python's integers."""
    word = 2**64 - 1
    z &= word
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & word
    z = (z ^ z >> 27) * 0x94D049BB133111EB & word
    return z ^ z >> 31


def test_normal_joins_every_kind_of_blank() -> None:
    assert normal("  Straße\t\n OF\u00a0Cats\u3000") == "strasse of cats"
    every = "x".join(map(chr, range(sys.maxunicode + 1)))
    assert normal(every) == re.sub(r"\s+", " ", every.casefold()).strip()


def test_windows_by_hand() -> None:
    # codes 1 2 3 | 4 | (none) | 5 6: runs of two are 12, 23 and 56; a run is first * prime + second, then mixed
    hashes, starts = windows(np.array([1, 2, 3, 4, 5, 6], dtype=np.uint64), np.array([3, 1, 0, 2]), 2)
    assert starts.tolist() == [0, 2, 2, 2, 3]
    assert hashes.tolist() == [mixed(a * 0x100000001B3 + b) for a, b in ((1, 2), (2, 3), (5, 6))]
    hashes, starts = windows(np.array([7], dtype=np.uint64), np.array([1, 0]), 3)
    assert hashes.tolist() == [] and starts.tolist() == [0, 0, 0]


def test_shingles_of_short_and_strange_texts() -> None:
    hashes, starts = shingles(["", "ab", "abcde", "abcdef", "東京\ud800😀x"])
    assert starts.tolist() == [0, 1, 2, 3, 5, 6]
    assert len(set(hashes.tolist())) == 5  # abcde and abcdef share one
    assert hashes[2] == hashes[3]
    assert shingles([])[1].tolist() == [0]
    assert [len(each) for each in shingle_sets(["aaaaaaaa", "abcdef"])] == [1, 2]
    assert shared_count(*shingle_sets(["abcdefg", "xbcdefg"])) == 2


def test_the_generator_gives_published_numbers() -> None:
    # splitmix64 from 1234567, as in the reference implementation's examples
    assert list(islice(minhash._splitmix(1234567), 2)) == [6457827717110365317, 3203168211198807973]


@pytest.mark.parametrize("backend", ["numpy", "rensa"])
def test_signatures_by_hand(backend: minhash.Backend) -> None:
    if backend == "rensa":
        pytest.importorskip("rensa", reason="rensa is not installed (extra `dedup`)")
    zero = [1369325940, 3011354464, 2525863680, 2598981127]  # a h + b is b for h = 0, and its upper half is the value
    one = [571772611, 2942180443, 1638972216, 3137365766]
    hashes, starts = np.array([0, 1, 1, 0, 1], dtype=np.uint64), np.array([0, 1, 2, 5])
    found = signatures(hashes, starts, backend)
    assert found.dtype == np.uint32 and found.shape == (3, 130)
    assert found[:, :4].tolist() == [zero, one, [571772611, 2942180443, 1638972216, 2598981127]]
    assert signatures(hashes[:0], np.array([0]), backend).shape == (0, 130)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_both_back_ends_give_the_same_bits(texts: list[str]) -> None:
    pytest.importorskip("rensa", reason="rensa is not installed (extra `dedup`)")
    hashes, starts = shingles([normal(text) for text in texts])
    assert np.array_equal(signatures(hashes, starts, "rensa"), signatures(hashes, starts, "numpy"))


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_a_sketch_depends_on_its_text_alone(texts: list[str]) -> None:
    together = sketches(texts, "numpy")
    assert all(np.array_equal(together[i], sketches([text], "numpy")[0]) for i, text in enumerate(texts))


def test_agreement_estimates_similarity() -> None:
    # 5-grams of runs of the alphabet, all different: 1,000 and 1,000 with 600 in common, 600 / 1,400 = 0.4286
    letters = [chr(0x4E00 + i) for i in range(1404)]
    marks = sketches(["".join(letters[:1004]), "".join(letters[400:])], "numpy")
    wanted = 0.4286 + (1 - 0.4286) / 256
    assert agreements(marks[:1], marks[1:])[0] / 130 == pytest.approx(wanted, abs=3 * (0.43 * 0.57 / 130) ** 0.5)
    assert agreements(marks, marks).tolist() == [130, 130]


def test_bands() -> None:
    # 0.7^5 = 0.168, 26 bands: 1 - 0.832^26 = 0.992; one row more, 0.7^6 = 0.118, 21 bands: 1 - 0.882^21 = 0.928
    assert rows_per_band(0.7) == 5
    marks = np.zeros((3, 130), dtype=np.uint8)
    marks[1, 5] = 1  # in the second band
    marks[2, ::5] = 1  # in every band
    keys = np.stack(list(band_keys(marks, 0.7)))
    assert keys.shape == (26, 3)
    assert (keys[:, 0] == keys[:, 1]).tolist() == [True, False] + [True] * 24
    assert not (keys[:, 0] == keys[:, 2]).any()


def test_blocks_keep_order_and_end() -> None:
    texts = ["a" * 30_000, "b" * 30_000, "c" * 30_000, *[""] * 10_000]
    parts = list(blocks([texts[:1], [], texts[1:]]))
    assert [text for part in parts for text in part] == texts
    assert len(parts[0]) == 3 and max(len(part) for part in parts) <= (1 << 12)
    with pytest.raises(PoiseError, match="text 2: a text is null"):
        list(blocks([["a", "b"], [None]]))  # type: ignore[list-item]


@pytest.mark.usefixtures("fresh_choice")
def test_another_rensa_is_refused_or_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        def to_rows(self) -> list[list[int]]:
            return [[7] * 130] * 3

    other = types.ModuleType("rensa")
    other.RMinHash = types.SimpleNamespace(digest_matrix_from_flat_token_hashes=lambda *_: Rows())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rensa", other)
    with pytest.warns(UserWarning, match="NumPy is used instead") as said:
        assert choose("auto") == choose("auto") == "numpy"
    assert len(said) == 1
    with pytest.raises(PoiseError, match=r"other signatures than Poise.*rensa>=0\.4,<0\.5"):
        choose("rensa")
    choose.cache_clear()
    del other.RMinHash.digest_matrix_from_flat_token_hashes
    with pytest.raises(PoiseError, match="other signatures"):
        choose("rensa")


@pytest.mark.usefixtures("fresh_choice")
def test_without_rensa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    assert choose("auto") == "numpy"
    with pytest.raises(PoiseError, match="rensa is not installed") as refused:
        choose("rensa")
    assert refused.value.exit_code == 3
