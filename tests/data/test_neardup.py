"""Near-duplicates: hand cases, recall on planted copies, and the properties the split leans on."""

from __future__ import annotations

import random
import tempfile
import time
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data import neardup
from poise.data.minhash import normal
from poise.data.neardup import Cluster, cluster_stream, clusters, drop_near_duplicates, jaccard, representatives
from poise.errors import PoiseError

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


def edited(text: str, edits: int, draw: random.Random) -> str:
    """The text after some edits of a word or a letter."""
    words = text.split()
    for _ in range(edits):
        at = draw.randrange(len(words))
        words[at] = draw.choice(WORDS) if draw.random() < 0.5 else words[at] + draw.choice("xyz")
    return " ".join(words)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_both_back_ends_give_the_same_clusters(seed: int) -> None:
    pytest.importorskip("rensa", reason="rensa is not installed (extra `dedup`)")
    draw = random.Random(seed)
    base = sentences(800, seed, length=30)
    texts = base + [edited(text, draw.randint(0, 9), draw) for text in base] + ["", "ß", "\ud800", "東京" * 9]
    draw.shuffle(texts)
    ids = clusters(texts, backend="rensa")
    assert np.array_equal(ids, clusters(texts, backend="numpy"))
    assert 100 < len(representatives(ids)) < 800


def test_against_all_pairs_of_planted_duplicates() -> None:
    draw = random.Random(21)
    base = sentences(100, seed=21, length=40, words=[a + b for a in WORDS for b in WORDS])
    texts = base + [edited(text, edits, draw) for text in base for edits in (1, 6, 9)]
    sets = [frozenset(t[i : i + 5] for i in range(len(t) - 4)) for t in map(normal, texts)]
    true = {
        (i, j) for i, j in combinations(range(len(texts)), 2) if len(sets[i] & sets[j]) >= 0.7 * len(sets[i] | sets[j])
    }
    ids = clusters(texts)
    assert len(true) > 150 and np.mean([ids[i] == ids[j] for i, j in true]) > 0.99
    component = list(range(len(texts)))
    for i, j in true:
        component = [component[i] if c == component[j] else c for c in component]
    linked = [(i, j) for i, j in combinations(range(len(texts)), 2) if ids[i] == ids[j]]
    assert all(component[i] == component[j] for i, j in linked)  # no cluster reaches further than the true pairs


def test_a_stream_gives_the_same_clusters_as_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(900, seed=31, length=20)
    texts += [text.upper() + "x" for text in texts[:300]] + texts[300:400]
    ids = clusters(texts)
    assert len(representatives(ids)) == 400
    monkeypatch.setattr(neardup, "_IN_MEMORY", 1000)  # so that the texts go to disk
    batches = (pa.array(texts[at : at + 70]) for at in range(0, len(texts), 70))
    assert np.array_equal(cluster_stream(batches), ids)
    assert cluster_stream(iter([[], []])).tolist() == []


def test_a_null_and_a_full_disk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoiseError, match="text 1: a text is null"):
        cluster_stream([pa.array(["a", None])])

    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(PoiseError, match="No space left") as refused:
        clusters(["a"])
    assert refused.value.exit_code == 3


def test_representatives() -> None:
    ids = np.array([0, 1, 1, 3, 0, 1, 6, 7, 7])
    assert representatives(ids) == [Cluster(1, 3), Cluster(0, 2), Cluster(7, 2)]
    assert representatives(np.array([0, 1])) == []


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each exact comparison."""
    seen: list[int] = []
    compare = neardup.shared_count

    def counted(a: neardup.HashArray, b: neardup.HashArray) -> int:
        seen.append(1)
        return compare(a, b)

    monkeypatch.setattr(neardup, "shared_count", counted)
    return seen


def test_identical_texts_need_no_comparison(comparisons: list[int]) -> None:
    assert set(clusters(["One boilerplate text for all of them."] * 5000).tolist()) == {0}
    assert len(comparisons) == 0


def test_near_identical_texts_need_one_comparison_each(comparisons: list[int]) -> None:
    core = sentences(1, seed=41, length=60)[0]
    assert set(clusters([f"{core} number {i}" for i in range(3000)]).tolist()) == {0}
    assert len(comparisons) < 2 * 3000


def test_a_crowd_just_under_the_threshold_needs_a_bounded_number(comparisons: list[int]) -> None:
    """2,000 texts around one boilerplate, pairs at about 0.6: two million of them, a tenth of which share a band."""
    draw = random.Random(44)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(5000)]
    core = sentences(1, seed=42, length=40, words=words)[0]
    crowd = [f"{core} {own}" for own in sentences(2000, seed=43, length=12, words=words)]
    assert 0.55 < np.mean([jaccard(crowd[0], other) for other in crowd[1:50]]) < 0.67
    planted = [text + "s" for text in crowd[:50]]
    comparisons.clear()
    ids = clusters(crowd + planted)
    assert 2000 < len(comparisons) < 33 * 2050
    assert (ids[:50] == ids[2000:]).all()
    assert len(representatives(ids)) >= 50 and max(c.size for c in representatives(ids)) < 50


def test_a_crowd_of_alike_texts_stays_fast() -> None:
    start = time.process_time()
    assert set(clusters([f"Please say something kind about house number {i}." for i in range(4000)]).tolist()) == {0}
    assert time.process_time() - start < 5
