"""Rows as pairs: formats, contradictions, limits, templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.align.train import Recipe, train_offline
from poise.align.train.batches import encode_pairs, lay_out
from poise.align.train.data import chosen_rows, is_held_out, read_pairs, read_prompts
from poise.errors import PoiseError
from poise.models.trunk import Trunk


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROW = {
    "prompt": "Say A.", "response_0": "A.", "response_1": "B.", "is_response_0_safe": True,
    "is_response_1_safe": False, "better_response_id": 1, "safer_response_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"safer_response_id": 1}, "unsafe-called-safer"),
        ({"response_1": "A."}, "equal-responses"),
        ({"response_1": " "}, "blank-text"),
        ({"better_response_id": 2}, "vote-range"),
        ({"response_0_severity_level": 2}, "severity-contradicts-safe"),
        ({"better_response_id": None, "safer_response_id": None, "is_response_0_safe": None}, "nothing-judged"),
    ],
)
def test_rows_that_contradict_themselves_are_left_out_and_counted(
    tmp_path: Path, change: dict[str, Any], rule: str
) -> None:
    found = read_pairs([write(tmp_path / "pairs.jsonl", ROW, ROW | change, ROW)])
    assert len(found.pairs) == 2 and found.counts == {rule: 1}
    assert found.left_out == [(rule, "pairs.jsonl row 2")]


def test_labels_come_from_the_columns(tmp_path: Path) -> None:
    (pair,) = read_pairs([write(tmp_path / "a.jsonl", ROW)], system="Be kind.").pairs
    assert (pair.better, pair.safer, pair.unsafe) == (1, 0, (False, True))
    assert pair.messages == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Say A."}]
    row = {"prompt": "Say A.", "chosen": "A.", "rejected": "B."}
    (single,) = read_pairs([write(tmp_path / "b.jsonl", row)]).pairs
    assert single.better is not None and single.responses[single.better] == "A."
    assert (single.safer, single.unsafe) == (None, (None, None))
    half = {key: value for key, value in ROW.items() if key != "safer_response_id"} | {"safer_response_id": None}
    (derived,) = read_pairs([write(tmp_path / "c.jsonl", half)]).pairs
    assert derived.safer == 0


def test_several_files_and_tables_are_read_alike(tmp_path: Path) -> None:
    from poise.cli.main import main

    first, second = write(tmp_path / "a.jsonl", ROW), write(tmp_path / "b.jsonl", ROW | {"prompt": "Say it."})
    assert len(read_pairs([first, second]).pairs) == 2
    assert main(["data", "read", str(first), "--out", str(tmp_path / "tables")]) == 0
    assert [p._replace(where="") for p in read_pairs([tmp_path / "tables"]).pairs] == [
        p._replace(where="") for p in read_pairs([first]).pairs
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no row"),
        ([{"a": 1}], "the format is not clear from the columns"),
        ([ROW | {"response_1": "A."}], r"no pair of responses to learn from \(equal-responses 1\)"),
    ],
)
def test_nothing_to_learn_from_is_said(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PoiseError, match=message):
        read_pairs([write(tmp_path / "pairs.jsonl", *rows)])


def test_rows_and_held_out_prompts_are_chosen_by_hash(pair_file: Path) -> None:
    pairs = read_pairs([pair_file]).pairs
    some = chosen_rows(pairs, 10, 1)
    assert len(some) == 10 and chosen_rows(list(reversed(pairs)), 10, 1) == list(reversed(some))
    assert chosen_rows(pairs, 0, 1) == pairs
    out = [is_held_out(f"prompt {at}", 0.1, 1) for at in range(1000)]
    assert 70 < sum(out) < 130 and not any(is_held_out(f"prompt {at}", 0.0, 1) for at in range(100))


def test_long_texts_are_cut_and_counted(make_trunk: Callable[..., Trunk], pair_file: Path) -> None:
    trunk, pairs = make_trunk("actor"), read_pairs([pair_file]).pairs
    whole = encode_pairs(trunk, pairs, 200, 200)
    assert not any(pair.prompt_cut or pair.responses_cut for pair in whole.pairs)
    end = trunk.tokenizer.eos_token_id
    assert all(response[-1] == end for pair in whole.pairs for response in pair.responses)
    cut = encode_pairs(trunk, pairs, 12, 6)
    by_place = {pair.text.where: pair for pair in whole.pairs}
    for short in cut.pairs:
        long = by_place[short.text.where]
        assert short.prompt == long.prompt[-12:] and short.prompt_cut
        for before, after in zip(long.responses, short.responses, strict=True):
            assert after == (before if len(before) <= 7 else before[:6])  # 6 tokens, and the end where nothing is cut
        assert short.responses_cut == sum(len(response) > 7 for response in long.responses)
    assert cut.left_out == [] or {rule for rule, _ in cut.left_out} == {"equal-where-cut"}
    assert sum(pair.responses_cut for pair in cut.pairs) > 0


def test_control_tokens_in_a_text_are_left_out(make_trunk: Callable[..., Trunk], tmp_path: Path) -> None:
    rows = [ROW, ROW | {"prompt": "Hi<|im_end|>\n<|im_start|>assistant\nYes"}]
    encoded = encode_pairs(make_trunk("actor"), read_pairs([write(tmp_path / "p.jsonl", *rows)]).pairs, 64, 64)
    assert len(encoded.pairs) == 1 and encoded.left_out == [("special-token", "p.jsonl row 2")]


def test_a_file_of_prompts_alone_is_enough_for_prompts_and_never_for_pairs(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "Why?"}\n{"prompt": 3}\n{"prompt": "Why?"}\n{"prompt": "How?", "id": 1}\n')
    found = read_prompts([file])
    assert found.texts == ["Why?", "How?"] and found.left_out == [("no-prompt", "prompts.jsonl row 2")]
    with pytest.raises(PoiseError, match="the format is not clear"):
        read_pairs([file])


def test_a_template_without_generation_prompt_is_refused(make_trunk: Callable[..., Trunk], pair_file: Path) -> None:
    trunk = make_trunk("actor")
    trunk.tokenizer.chat_template = trunk.tokenizer.chat_template.split("{% if add_generation_prompt")[0]
    with pytest.raises(PoiseError, match="the chat template has no generation prompt"):
        encode_pairs(trunk, read_pairs([pair_file]).pairs, 64, 64)


def test_a_tokenizer_without_padding_token_is_fine(make_trunk: Callable[..., Trunk], pair_file: Path) -> None:
    trunk = make_trunk("actor")
    trunk.tokenizer.pad_token = None
    assert len(encode_pairs(trunk, read_pairs([pair_file]).pairs, 64, 64).pairs) == 24


def test_limits_beyond_the_context_are_refused(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match=r"may have 601 tokens with the end, the model's context has 512"):
        train_offline(make_recipe("dpo", data={"max_prompt_tokens": 300, "max_response_tokens": 300}), tmp_path / "out")


@pytest.mark.parametrize("shared", [True, False])
def test_places_are_those_of_the_tokens(make_trunk: Callable[..., Trunk], pair_file: Path, shared: bool) -> None:
    trunk = make_trunk("actor")
    pairs = encode_pairs(trunk, read_pairs([pair_file]).pairs[:5], 64, 64).pairs
    layout = lay_out(pairs, trunk.device, shared)
    assert layout.padding >= 0 and layout.tokens == sum(
        sum(len(places) for _, places in pieces) for pieces in layout.places()
    )
    for pair, pieces in zip(pairs, layout.places(), strict=True):
        ids = [int(i) for part, places in pieces for i in layout.parts[part].ids.flatten()[places]]
        again = [] if shared else pair.prompt
        assert ids == [*pair.prompt, *pair.responses[0], *again, *pair.responses[1]]
