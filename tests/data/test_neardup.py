"""Near-duplicates: hand cases, recall on planted copies, and the properties the split leans on."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.neardup import clusters, drop_near_duplicates, jaccard

WORDS = [
    f"{a}{b}{c}" for a in ("ka", "mo", "ri", "ten", "sul") for b in ("lo", "vi", "gra") for c in ("n", "sto", "pe")
]


def sentences(n: int, seed: int, length: int = 12, words: list[str] = WORDS) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=length)) for _ in range(n)]


def test_jaccard_by_hand() -> None:
    # 5-grams: {abcde, bcdef} and {abcde, bcdeg}: 1 shared of 3
    assert jaccard("abcdef", "ABCDEG") == pytest.approx(1 / 3)
    assert jaccard("abc", "abc") == 1 and jaccard("abc", "abd") == 0  # short texts count as a whole
    assert jaccard("a  b\n c", "A b C") == 1


def test_cluster_id_is_the_smallest_index() -> None:
    texts = [
        "How do I bake bread?",
        "Name a bird.",
        "how do I  bake bread?",
        "How do I bake breads?",
        "Name a bird!",
        "",
    ]
    assert clusters(texts).tolist() == [0, 1, 0, 0, 1, 5]
    assert clusters(texts, threshold=1).tolist() == [0, 1, 0, 3, 4, 5]
    assert clusters([]).tolist() == []


def test_a_chain_is_one_cluster() -> None:
    a, b, c = "abcdefghijklmnopqrst", "abcdefghijklmnopqrstuv", "abcdefghijklmnopqrstuvwxyz"
    assert jaccard(a, c) < 0.75 <= min(jaccard(a, b), jaccard(b, c))
    assert clusters([a, c], 0.75).tolist() == [0, 1]
    assert clusters([a, c, b], 0.75).tolist() == [0, 0, 0]


def test_planted_near_duplicates_are_found_and_others_kept_apart() -> None:
    base = sentences(1500, seed=1)
    planted = []
    for text in base:
        words = text.split()
        words[-1] += "x"  # one letter more
        planted.append(" ".join(words).upper())
    ids = clusters(base + planted)
    truly = np.array([jaccard(a, b) >= 0.7 for a, b in zip(base, planted, strict=True)])
    together = ids[: len(base)] == ids[len(base) :]
    assert truly.mean() > 0.95
    assert together[truly].mean() > 0.99
    assert len(set(ids[: len(base)].tolist())) > 0.98 * len(base)


def test_candidates_miss_nothing_that_all_pairs_find() -> None:
    texts = sentences(60, seed=3, length=3) + sentences(60, seed=4, length=2)
    for threshold in (0.3, 0.5, 0.7, 0.9):
        ids = clusters(texts, threshold)
        pairs = [(i, j) for i in range(120) for j in range(i) if jaccard(texts[i], texts[j]) >= threshold]
        assert pairs or threshold > 0.5
        assert np.mean([ids[i] == ids[j] for i, j in pairs] or [1]) > 0.97
        for i in range(120):  # whoever is linked has a near neighbour in the cluster
            mates = [j for j in range(120) if j != i and ids[j] == ids[i]]
            assert not mates or max(jaccard(texts[i], texts[j]) for j in mates) >= threshold


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=12), st.randoms())
def test_order_does_not_matter_and_a_subset_never_joins_more(texts: list[str], draw: random.Random) -> None:
    ids = clusters(texts)
    order = list(range(len(texts)))
    draw.shuffle(order)
    shuffled = clusters([texts[i] for i in order])
    for x, i in enumerate(order):
        for y, j in enumerate(order):
            assert (ids[i] == ids[j]) == (shuffled[x] == shuffled[y])
    part = order[: len(order) // 2]
    fewer = clusters([texts[i] for i in part])
    for x, i in enumerate(part):
        for y, j in enumerate(part):
            assert fewer[x] != fewer[y] or ids[i] == ids[j]


def test_lone_surrogates_do_not_break_it() -> None:
    assert clusters(["abc\ud800defgh", "abc\ud800defgh", "x"]).tolist() == [0, 0, 2]


def test_drop_near_duplicates() -> None:
    new = ["Tell me about otters.", "tell me about otters", "Who built this bridge?", "Sing a song."]
    assert drop_near_duplicates(new).tolist() == [True, False, True, True]
    assert drop_near_duplicates(new, existing=["Who built this bridge"]).tolist() == [True, False, False, True]
    assert drop_near_duplicates([], existing=new).tolist() == []


def test_bad_threshold_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        clusters(["a"], 0)


def test_twenty_thousand_prompts_in_seconds() -> None:
    texts = sentences(20_000, seed=5, length=6, words=[a + b for a in WORDS for b in WORDS])
    start = time.process_time()
    ids = clusters(texts)
    assert time.process_time() - start < 10
    assert len(set(ids.tolist())) > 19_000


def test_a_crowd_of_alike_texts_stays_fast() -> None:
    start = time.process_time()
    assert set(clusters([f"Please say something kind about house number {i}." for i in range(4000)]).tolist()) == {0}
    assert time.process_time() - start < 5
