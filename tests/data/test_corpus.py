"""Corpus on disk, the answer that stands, and merging."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.corpus import Corpus, canonical_json, latest, merge, read_jsonl, with_splits, write_jsonl
from poise.data.rows import Judgement, PairRow, PromptRow, Provenance, QARow, Rater, Sampling
from poise.errors import PoiseError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
made = st.builds(
    Provenance,
    source=texts,
    persona=st.none() | texts,
    sampling=st.none() | st.builds(Sampling, temperature=st.floats(0, 2), seed=st.integers(0, 2**40)),
    parents=st.lists(texts, max_size=2).map(tuple),
)
# a lone surrogate followed by its partner is one character once written, so only low ones are drawn
broken = st.text(st.characters(min_codepoint=0xDC00, max_codepoint=0xDFFF), max_size=3)
corpora = st.builds(
    Corpus,
    prompts=st.lists(st.builds(PromptRow, id=texts, prompt=texts, category=st.sampled_from(["S1", "S19", None]),
                               severity=st.integers(0, 3), provenance=made), max_size=3),
    qa=st.lists(st.builds(QARow, id=texts, prompt_id=texts, prompt=texts, response=texts, provenance=made), max_size=3),
    pairs=st.lists(st.builds(PairRow, id=texts, prompt_id=texts, qa_0=texts, qa_1=texts), max_size=3),
    judgements=st.lists(
        st.builds(Judgement, item=texts, question=st.just("better"), value=st.none() | st.integers(0, 1), rater=texts,
                  probability=st.none() | st.floats(0, 1), reason=st.none() | texts | broken),
        max_size=3,
    ),
    raters=st.lists(st.builds(Rater, id=texts, kind=st.just("model")), max_size=3),
    dropped=st.dictionaries(texts, st.integers(0, 9), max_size=3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(corpora)
def test_corpus_comes_back_as_written(corpus: Corpus) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus.write(Path(folder))
        first = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        again = Corpus.read(Path(folder))
        assert again == corpus
        again.write(Path(folder))
        assert first == {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_canonical_json_keeps_order_and_utf8_and_escapes_lone_surrogates() -> None:
    assert canonical_json({"b": "é\u2028", "a": "x\ud800"}) == '{"b":"é\u2028","a":"x\\ud800"}'


@pytest.mark.parametrize(
    ("line", "says"),
    [(b'{"a": 1', "no valid JSON"), (b"[1]", "not list"), (b'{"a": "\xff"}', "not UTF-8")],
)
def test_broken_line_is_named_by_file_and_number(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(PoiseError, match=rf"x\.jsonl:3: .*{says}"):
        list(read_jsonl(path))


def test_gz_is_read_and_a_cut_archive_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": "x"}\n' * 3000 + b'{"b": 2}\n')
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(whole)
    assert list(read_jsonl(path))[-1] == (3001, {"b": 2})
    path.write_bytes(whole[:-12])
    with pytest.raises(PoiseError, match="damaged archive"):
        list(read_jsonl(path))
    path.write_bytes(b"not gzip")
    with pytest.raises(PoiseError, match="damaged archive"):
        list(read_jsonl(path))


def test_missing_file_and_wrong_row_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match=r"prompts\.jsonl: cannot be read"):
        Corpus.read(tmp_path)
    Corpus().write(tmp_path)
    write_jsonl(tmp_path / "raters.jsonl", [{"id": "a", "kind": "robot secret", "version": ""}])
    with pytest.raises(PoiseError, match=r"raters\.jsonl:1: field 'kind' of Rater") as error:
        Corpus.read(tmp_path)
    assert "robot secret" not in str(error.value)


def judged(value: object, rater: str, item: str = "i", question: str = "safe") -> Judgement:
    return Judgement(item=item, question=question, value=value, rater=rater)  # type: ignore[arg-type]


def test_latest_prefers_named_raters_then_the_last_and_never_an_unjudged_row() -> None:
    log = [judged(True, "a"), judged(False, "b"), judged(True, "c"), judged(None, "a"), judged(None, "x", item="j")]
    log.append(judged(0, "a", question="better"))
    assert latest(log, "safe")["i"].rater == "c"  # the last that judged
    assert latest(log, "safe", prefer=["a"])["i"].value is True  # a's own later None does not take its answer back
    assert latest(log, "safe", prefer=["z", "b", "a"])["i"].rater == "b"
    assert latest(log, "safe")["j"].value is None  # only unjudged: it shows
    assert latest([*log, judged(False, "a")], "safe", prefer=["a"])["i"].value is False  # same rater: the last
    assert set(latest(log, "better")) == {"i"}


def test_merge_keeps_the_first_text_row_and_every_judgement(make_corpus) -> None:
    one, two = make_corpus(2), make_corpus(3)
    one.dropped, two.dropped = {"tie": 2}, {"tie": 1, "empty": 4}
    both = merge([one, two])
    assert both.prompts == two.prompts and both.qa == two.qa and both.pairs == two.pairs and both.raters == two.raters
    assert len(both.judgements) == len(one.judgements) + len(two.judgements)
    assert both.dropped == {"tie": 3, "empty": 4}


def test_with_splits_moves_all_rows_of_a_prompt(make_corpus) -> None:
    corpus = make_corpus(2)
    target = corpus.prompts[1].id
    moved = with_splits(corpus, {corpus.prompts[0].id: "train", target: "test"})
    assert {row.split for row in [*moved.qa, *moved.pairs] if row.prompt_id == target} == {"test"}
    assert {row.split for row in [*moved.qa, *moved.pairs] if row.prompt_id != target} == {"train"}
    with pytest.raises(PoiseError, match="has no split"):
        with_splits(corpus, {target: "test"})
