"""Contamination: each kind of match by hand, what the file holds, and files that are not what they should be."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.data import contamination as module
from poise.data.contamination import HashList, Match, contamination, read_hash_list, write_hash_list
from poise.data.neardup import jaccard
from poise.errors import PoiseError

ITEMS = [
    "Explain to a child of seven why the sky over the harbour turns red in the evening.",
    "Name three rivers of Portugal.",
    "Which of the following spices is left out of the soup that grandmother cooks every second Sunday in autumn?",
]

Make = Callable[..., HashList]


@pytest.fixture
def listed(tmp_path: Path) -> Make:
    """Writes the list of an evaluation set and reads it back."""

    def make(*texts: str, name: str = "quiz") -> HashList:
        return read_hash_list(write_hash_list(tmp_path / f"{name}.parquet", name, texts))

    return make


def found(texts: list[str], *lists: HashList) -> list[tuple[int, str, str, float]]:
    return [(m.text, m.name, m.kind, round(m.score, 3)) for m in contamination([texts], lists)]


def test_each_kind(listed: Make) -> None:
    longer = (
        f"Pretend that you are an old sailor. {ITEMS[0].upper()} Answer in verse, and never leave your role, please."
    )
    near = ITEMS[2].replace("autumn", "winter")
    assert jaccard(longer, ITEMS[0]) < 0.6 and jaccard(near, ITEMS[2]) > 0.8
    texts = ["Who built this bridge?", "name  three rivers of portugal.", longer, near, "", "Name three rivers."]
    matches = list(contamination([texts], [listed(*ITEMS)]))
    assert [(m.text, m.kind) for m in matches] == [(1, "exact"), (2, "overlap"), (3, "near")]
    assert matches[0].score == matches[1].score == 1
    assert matches[2].score == pytest.approx(jaccard(near, ITEMS[2]), abs=0.12)
    assert {m.name for m in matches} == {"quiz"}


def test_the_item_is_told_by_its_hash(listed: Make) -> None:
    quiz = listed(*ITEMS)
    items = [m.item for m in contamination([ITEMS], [quiz])]
    assert len(set(items)) == 3 and sorted(items) == [digest.hex() for digest in quiz.exact]


def test_the_share_by_hand(listed: Make) -> None:
    # 11 words are 4 runs of eight; "a ... i" holds 2 of them, however often it is repeated; "a ... h" holds 1
    quiz = listed("ant bee cat dog elk fox gnu hen ibis jay kiwi")
    two, one = "Ant, bee; cat dog: elk (fox) gnu - hen ibis!", "ant bee cat dog elk fox gnu hen"
    rest = " 1 22 333 4444 55555 666666 7777777 88888888 999999999" * 5
    assert found([two + rest, two * 2 + rest, one + rest], quiz) == [
        (0, "quiz", "overlap", 0.5),
        (1, "quiz", "overlap", 0.5),
    ]
    assert [m.score for m in contamination([[one + rest]], [quiz], overlap=0.25)] == [0.25]


def test_scripts_without_blanks(listed: Make) -> None:
    item = "天気がいいから明日は海へ行きましょう"
    assert found(
        [f"最初に少し別の話をします。それから、{item}。終わりに長い挨拶をして、家に帰ることにしました。"], listed(item)
    ) == [(0, "quiz", "overlap", 1.0)]


def test_an_item_of_few_words_is_not_sought_inside(listed: Make) -> None:
    assert found([f"Now the question. {ITEMS[1]} Take your time and give reasons for each."], listed(ITEMS[1])) == []


def test_boilerplate_of_the_set_does_not_count(listed: Make) -> None:
    stem = "Read the passage below with care and then answer the question that follows it in one word:"
    shared = listed(*(f"{stem} case{i} x{i} y{i} z{i} u{i} v{i} w{i} r{i} s{i}" for i in range(257)))
    assert (
        found([stem + " but this one is about something else entirely, and it is much longer than the rest"], shared)
        == []
    )
    few = listed(*(f"{stem} case{i}" for i in range(3)), name="few")
    assert [kind for *_, kind, _ in found([stem + " now for something else, which is long " * 4], few)] == ["overlap"]


def test_one_match_a_list_the_strongest(listed: Make) -> None:
    first, second = listed(*ITEMS), listed(ITEMS[0] + " Now.", ITEMS[0], "Another thing.", name="exam")
    assert found([ITEMS[1], ITEMS[0]], first, second) == [
        (0, "quiz", "exact", 1.0),
        (1, "quiz", "exact", 1.0),
        (1, "exam", "exact", 1.0),
    ]
    assert found(ITEMS) == []


def test_a_stream_of_many_blocks(listed: Make) -> None:
    draw = random.Random(5)
    texts = [" ".join(draw.choices(["alpha", "beta", "gamma", "delta", "iota", "zeta"], k=60)) for _ in range(700)]
    planted = {20: ITEMS[0], 333: ITEMS[1], 699: ITEMS[2]}
    for place, text in planted.items():
        texts[place] = text
    batches = (pa.array(texts[at : at + 90]) for at in range(0, 700, 90))
    matches = list(contamination(batches, [listed(*ITEMS)]))
    assert [m.text for m in matches] == list(planted)
    assert all(isinstance(m, Match) for m in matches)


def test_both_back_ends_find_the_same(listed: Make) -> None:
    pytest.importorskip("rensa", reason="rensa is not installed (extra `dedup`)")
    quiz = listed(*ITEMS)
    texts = [text[: len(text) * 9 // 10] for text in ITEMS]
    by_rensa = list(contamination([texts], [quiz], backend="rensa"))
    assert by_rensa and by_rensa == list(contamination([texts], [quiz], backend="numpy"))


def test_near_matches_are_found(listed: Make) -> None:
    """Planted copies with one word changed: those of similarity 0.8 or more, which the estimate cannot miss by much."""
    draw = random.Random(6)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)]
    items = [" ".join(draw.choices(words, k=30)) for _ in range(300)]
    copies = [f"{item.rsplit(' ', 1)[0]} otherwise" for item in items]
    others = [" ".join(draw.choices(words, k=30)) for _ in range(300)]
    matches = list(contamination([copies + others], [listed(*items)]))
    assert all(jaccard(a, b) > 0.8 for a, b in zip(items, copies, strict=True))
    assert [m.text for m in matches if m.kind == "near"] == list(range(300))
    assert len(matches) == 300


def test_the_file_holds_no_text_and_depends_on_the_set_alone(tmp_path: Path) -> None:
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_hash_list(a, "quiz", ITEMS)
    write_hash_list(b, "quiz", [*reversed(ITEMS), ITEMS[0].upper(), "", "  "])
    assert a.read_bytes() == b.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]
    table = pq.read_table(a)
    assert table.num_rows == 3
    assert {field.name: str(field.type) for field in table.schema} == {
        "exact": "fixed_size_binary[16]",
        "sketch": "fixed_size_binary[130]",
        "grams": "list<element: uint64>",
    }
    plain = (
        a.read_bytes()
        + b"".join(table["exact"].to_pylist() + table["sketch"].to_pylist())
        + table.schema.metadata[b"poise.hash_list"]
    )
    for word in " ".join(ITEMS).split():
        assert len(word) < 5 or word.encode() not in plain


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name, texts, match in (
        ("quiz", [], "needs texts"),
        ("quiz", ["", " "], "needs texts"),
        (" ", ITEMS, "needs a name"),
    ):
        with pytest.raises(PoiseError, match=match):
            write_hash_list(tmp_path / "x.parquet", name, texts)
    with pytest.raises(PoiseError, match="cannot write"):
        write_hash_list(tmp_path / "nowhere" / "x.parquet", "quiz", ITEMS)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(PoiseError, match="cannot write"):
        write_hash_list(tmp_path / "folder.parquet", "quiz", ITEMS)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.parquet"]


def test_files_that_are_no_hash_list(tmp_path: Path) -> None:
    good = write_hash_list(tmp_path / "good.parquet", "quiz", ITEMS)
    table = pq.read_table(good)
    about = json.loads(table.schema.metadata[b"poise.hash_list"])

    def write(file: str, changed: pa.Table, **said: object) -> Path:
        meta = {"poise.hash_list": json.dumps({**about, **said})}
        pq.write_table(changed.replace_schema_metadata(meta), tmp_path / file)
        return tmp_path / file

    (tmp_path / "garbage.parquet").write_bytes(b"PAR1 but nothing more")
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-40])
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "plain.parquet")
    pq.write_table(table.replace_schema_metadata({"poise.hash_list": "[1]"}), tmp_path / "list.parquet")
    nulls = pa.table([[None] * 3, table["sketch"], table["grams"]], schema=table.schema)
    for path, match in {
        tmp_path / "absent.parquet": "no such file",
        tmp_path: "not a hash list",
        tmp_path / "garbage.parquet": "not a hash list",
        tmp_path / "cut.parquet": "not a hash list",
        tmp_path / "plain.parquet": "not a hash list",
        tmp_path / "list.parquet": "not a hash list",
        write("version.parquet", table, version=2): "another way: .*'version': 2",
        write("columns.parquet", table.drop_columns(["grams"])): "other columns",
        write("empty.parquet", table.slice(0, 0)): "without rows",
        write("name.parquet", table, name=7): "without a name",
        write("nulls.parquet", nulls): "nulls",
    }.items():
        with pytest.raises(PoiseError, match=match):
            read_hash_list(path)
    assert read_hash_list(write("same.parquet", table)).name == "quiz"


def test_bad_shares_are_refused(listed: Make) -> None:
    for near, overlap in ((0.0, 0.5), (1.0, 0.5), (0.7, 0.0), (0.7, 1.1)):
        with pytest.raises(ValueError, match="outside"):
            list(contamination([["a"]], [listed("b")], near, overlap))


def test_words_are_cut_where_a_reader_would() -> None:
    def grams(*texts: str) -> list[list[int]]:
        hashes, starts = module._grams(texts)
        return [part.tolist() for part in np.split(hashes, starts[1:-1])]

    plain, marked, shuffled = grams("a b c d e f g h", " a,b - c.d(e) f\u2014g;h!", "b a c d e f g h")
    assert len(plain) == 1 and plain == marked != shuffled
    assert grams("a b c d e f g", "", "ab cd ef gh ij kl mn op qr") == [[], [], grams("ab cd ef gh ij kl mn op qr")[0]]
