"""Every offline method on the tiny model, and what each says when the rows lack what it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.algorithms.sacpo import merged
from poise.align.train import METHODS, Recipe, train_offline
from poise.align.train.adapters import merged_adapters
from poise.align.train.methods import method_of
from poise.errors import PoiseError

Make = Callable[..., Recipe]
BRIEF = {"training": {"max_steps": 4, "evaluate_every": 0}}


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change every row of the file."""
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.kind == "offline"])
def test_every_method_learns_what_it_is_shown(make_recipe: Make, scores: Path, tmp_path: Path, method: str) -> None:
    extra: dict[str, Any] = {"mocan": {"scores": str(scores), "mocan": {"threshold": 10.0}}}.get(method, {})
    report = train_offline(make_recipe(method, data={"held_out": 0.0}, **extra), tmp_path / "out")
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    for phase in {entry["phase"] for entry in history}:
        losses = [entry["loss"] for entry in history if entry["phase"] == phase]
        half = (len(losses) + 1) // 2
        assert sum(losses[-half:]) < sum(losses[:half])
    assert report["method"] == method and report["evaluations"] == []


def test_safe_dpo_reorders_and_drops_by_the_flags(make_recipe: Make, tmp_path: Path) -> None:
    # flags by number mod 4 are (safe, safe), (safe, safe), (safe, unsafe), (unsafe, unsafe): the last quarter is
    # dropped; better is number mod 2, so in the third quarter response 0, the safe one, is better and nothing swaps.
    report = train_offline(make_recipe("safe_dpo", **BRIEF), tmp_path / "out")
    assert report["found"] == {"pairs_used": 24 + 24 + 18, "share_dropped": 0.25, "share_swapped": 0.0}


def test_safe_dpo_counts_swaps_in_every_step(make_recipe: Make, pair_file: Path, tmp_path: Path) -> None:
    rewrite(pair_file, lambda row: row | {"better_response_id": 1})
    report = train_offline(make_recipe("safe_dpo", data={"held_out": 0.0}), tmp_path / "out")
    assert report["found"]["share_swapped"] == 0.25
    history = [json.loads(line) for line in (tmp_path / "out" / "history.jsonl").read_text().splitlines()]
    assert sum(6 * entry["swapped"] for entry in history[:3]) == pytest.approx(6)  # of 18 pairs, 3 steps of 6


def test_bfpo_trains_the_down_projections_alone_when_asked(make_recipe: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train_offline(make_recipe("bfpo", bfpo={"selective": True}, **BRIEF), tmp_path / "out")
    moved = {
        name
        for name, t in load_file(tmp_path / "out" / "adapter_model.safetensors").items()
        if ".lora_B." in name and t.any()
    }
    assert moved and all(".down_proj." in name for name in moved)


def test_the_merge_of_adapters_is_that_of_their_matrices() -> None:
    torch.manual_seed(0)
    one, two = ({"m.lora_A.weight": torch.randn(2, 5), "m.lora_B.weight": torch.randn(3, 2)} for _ in range(2))
    whole = merged_adapters(one, two, 0.25)
    matrices = [{"m": 2 * each["m.lora_B.weight"] @ each["m.lora_A.weight"]} for each in (one, two, whole)]
    assert torch.allclose(matrices[2]["m"], merged(matrices[0], matrices[1], 0.25)["m"], atol=1e-6)


def test_p_sacpo_gives_a_merged_adapter_that_opens(make_recipe: Make, tmp_path: Path) -> None:
    from poise.align.train import open_policy

    report = train_offline(make_recipe("sacpo", sacpo={"merge": 0.5}, **BRIEF), tmp_path / "out")
    assert report["adapter"]["rank"] == 4 and open_policy(tmp_path / "out").roles == ("actor",)


def test_mocan_and_pecan_find_the_multiplier(make_recipe: Make, scores: Path, tmp_path: Path) -> None:
    report = train_offline(make_recipe("pecan", pecan={"threshold": 0.05}, **BRIEF), tmp_path / "pecan")
    assert report["found"]["multiplier"] == 0.0  # the reference's relative cost is 0 on average, below the threshold
    with pytest.raises(PoiseError, match=r"no policy on these responses has mean cost <= -1000"):
        train_offline(make_recipe("mocan", scores=str(scores), mocan={"threshold": -1000.0}, **BRIEF), tmp_path / "m")
    with pytest.raises(PoiseError, match="holds no preference models"):
        train_offline(make_recipe("mocan", scores=str(tmp_path), **BRIEF), tmp_path / "other")


LACKING = {
    "dpo": (("better_response_id",), "no pair to train on has the better response"),
    "safe_dpo": (("is_response_0_safe", "is_response_1_safe"), "has the better response and safe or unsafe for both"),
    "sacpo": (("better_response_id",), "no pair to train on has the better response"),
    "derta": (("is_response_0_safe", "is_response_1_safe"), "has exactly one safe response"),
}


@pytest.mark.parametrize("method", LACKING)
def test_what_the_rows_lack_is_named(make_recipe: Make, pair_file: Path, tmp_path: Path, method: str) -> None:
    columns, message = LACKING[method]
    rewrite(pair_file, lambda row: row | dict.fromkeys(columns))
    with pytest.raises(PoiseError, match=message) as told:
        train_offline(make_recipe(method), tmp_path / "out")
    assert method_of(method).needs in str(told.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [((True, True), "all responses are safe"), ((False, False), "all responses are unsafe")],
)
def test_rows_of_one_class_are_refused(
    make_recipe: Make, pair_file: Path, tmp_path: Path, flags: tuple[bool, bool], message: str
) -> None:
    rewrite(pair_file, lambda row: row | {"is_response_0_safe": flags[0], "is_response_1_safe": flags[1]})
    for method in ("safe_dpo", "bfpo"):
        with pytest.raises(PoiseError, match=message):
            train_offline(make_recipe(method), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
