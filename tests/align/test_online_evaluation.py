"""Looking at the actor: what is measured, what is written, and that looking changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from online_case import SCALE, looks, make, timeless

from poise.align.engine.evaluation import Evaluator, Sample, summary, table
from poise.errors import PoiseError


@pytest.fixture
def model(tiny_lm: Path, float32: None) -> Path:
    """Folder of the tiny model, computed in float32."""
    return tiny_lm


def test_looking_changes_nothing_and_writes_rows_and_samples(model: Path, tmp_path: Path) -> None:
    with_looks = make(model, "grpo_lagrangian", evaluation=looks(tmp_path / "eval"), steps=3)
    without = make(model, "grpo_lagrangian", steps=3)
    for number, loop in enumerate((with_looks, without)):
        loop.run(checkpoint=tmp_path / f"{number}.safetensors")
    assert timeless(with_looks.history) == timeless(without.history)
    assert with_looks.evaluator is not None
    rows = [json.loads(line) for line in (tmp_path / "eval" / "evaluation.jsonl").read_text().splitlines()]
    assert rows == with_looks.evaluator.rows and [row["step"] for row in rows] == [0.0, 2.0, 3.0]
    assert set(rows[0]) == {"step", "reward", "cost", "violation_rate", "kl", "response_tokens", "over_refusal"}
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-5) and rows[2]["kl"] != 0
    samples = [json.loads(line) for line in (tmp_path / "eval" / "samples-000002.jsonl").read_text().splitlines()]
    assert [sample["kind"] for sample in samples] == ["held-out"] * 3 + ["benign"] * 2
    text = (tmp_path / "eval" / "samples-000002.txt").read_text()
    assert all(f"{sample['id']}  cost {sample['cost']:+.2f}" in text for sample in samples)
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == sorted(
        ["evaluation.jsonl", *(f"samples-00000{step}.{end}" for step in (0, 2, 3) for end in ("jsonl", "txt"))]
    )


def test_a_look_depends_on_the_actor_and_its_own_seed_alone(model: Path, tmp_path: Path) -> None:
    """Another training seed, another step, other micro-batches: the same row. Another evaluation seed: another."""
    chance = looks(tmp_path, temperature=1.0)
    rows = []
    for training_seed, step, rows_at_once, seed in ((3, 0, 16, 0), (4, 6, 1, 0), (3, 0, 16, 1)):
        loop = make(model, "ppo", seed=training_seed)
        look = Evaluator(chance._replace(rows=rows_at_once, seed=seed), SCALE).look(loop.trunk, step)
        rows.append({name: value for name, value in look.items() if name != "step"})
    assert rows[0] == pytest.approx(rows[1], rel=1e-4, abs=1e-5)
    assert rows[0] != pytest.approx(rows[2], rel=1e-4, abs=1e-5)


def test_over_refusal_is_the_share_of_benign_prompts_that_the_rule_calls_refused(model: Path, tmp_path: Path) -> None:
    loop, asked = make(model, "ppo"), []

    def first_only(response: str) -> bool:
        asked.append(response)
        return len(asked) == 4  # three held-out prompts come first

    row = Evaluator(looks(tmp_path, refuses=first_only), SCALE).look(loop.trunk, 0)
    assert row["over_refusal"] == 0.5 and len(asked) == 5
    assert "over_refusal" not in Evaluator(looks(tmp_path, benign=[]), SCALE).look(loop.trunk, 0)


def test_summary_and_table_by_hand() -> None:
    samples = [
        Sample("held-out", "a", "Q?", "Line one\nline two", 0.5, 1.0, 2.0, 4, False),
        Sample("held-out", "b", "R?", "", -1.5, 2.0, 0.0, 0, True),
    ]
    expected = {"reward": 1.5, "cost": -0.5, "violation_rate": 0.5, "kl": 1.0, "response_tokens": 2.0}
    assert summary(samples) == expected
    assert table(7, samples) == (
        "Step 7: 2 samples. A cost below 0 is safe.\n\n"
        "[held-out] a  cost +0.50, reward +1.00\n  > Q?\n    Line one\n    line two\n\n"
        "[held-out] b  cost -1.50, reward +2.00, refused\n  > R?\n    (empty)\n"
    )


def test_what_cannot_be_looked_at(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no prompt to evaluate on"):
        Evaluator(looks(tmp_path, prompts=[]), SCALE)
    with pytest.raises(PoiseError, match="every 0"):
        Evaluator(looks(tmp_path, every=0), SCALE)
    loop, evaluation = make(model, "ppo"), looks(tmp_path)
    long = [evaluation.prompts[0]._replace(id="endless", ids=[5] * 600)]
    with pytest.raises(PoiseError, match="evaluation prompt endless"):
        Evaluator(evaluation._replace(prompts=long), SCALE).look(loop.trunk, 0)
    with torch.no_grad():
        loop.trunk.parameters_of("cost")[-1].fill_(float("nan"))
    with pytest.raises(PoiseError, match="not a number") as caught:
        Evaluator(evaluation, SCALE).look(loop.trunk, 0)
    assert caught.value.exit_code == 4
    (tmp_path / "file").touch()
    with pytest.raises(PoiseError, match="cannot be written"):
        Evaluator(evaluation._replace(folder=tmp_path / "file"), SCALE).look(make(model, "ppo").trunk, 0)
