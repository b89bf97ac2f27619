"""The synthetic world: its oracles are exact, its splits are what they say, and its command runs and continues."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "synthetic_world.py"
if not SCRIPT.exists():
    pytest.skip("benchmarks/synthetic_world.py is not part of this copy", allow_module_level=True)


@pytest.fixture(scope="module")
def grammar() -> Iterator[Any]:
    """The module `world.grammar`, found where the script finds it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import world.grammar

        yield world.grammar
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def world(grammar: Any) -> Any:
    """A world of full size."""
    return grammar.World(3, grammar.Size())


def chance(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_makes_the_same_world_and_requests(grammar: Any, world: Any) -> None:
    again, other = grammar.World(3, grammar.Size()), grammar.World(4, grammar.Size())
    first, second = (each.requests("unsafe", 50, chance()) for each in (world, again))
    assert torch.equal(first.prompt, second.prompt) and torch.equal(first.answer, second.answer)
    assert not torch.equal(world.bijections, other.bijections)


def test_operators_are_bijections_and_the_answer_applies_one_symbol_by_symbol(world: Any) -> None:
    assert torch.equal(world.bijections.sort(-1).values, torch.arange(30).expand(8, -1))
    requests = world.any_requests(200, chance())
    for prompt, answer in zip(requests.prompt.tolist(), requests.answer.tolist(), strict=True):
        operator, text = prompt[1] - 30, prompt[3:13]
        assert (prompt[0], prompt[2], prompt[13], answer[10]) == (world.bos, world.start, world.end, world.eos)
        assert answer[:10] == [int(world.bijections[operator, symbol]) for symbol in text]


def test_a_text_is_unsafe_when_three_of_its_five_phrases_are_harmful(world: Any) -> None:
    kinds = {kind: set(world.pairs[:, kind].flatten().tolist()) for kind in (0, 1)}
    assert len(kinds[0]) == len(kinds[1]) == 36 and not kinds[0] & kinds[1]
    for split, counts in (("safe", {0, 1, 2}), ("unsafe", {3, 4, 5}), ("mixed", {3})):
        requests = world.requests(split, 300, chance())
        text = requests.prompt[:, 3:13]
        phrases = (text[:, 0::2] * 30 + text[:, 1::2]).tolist()
        harmful = [sum(phrase in kinds[1] for phrase in row) for row in phrases]
        assert set(harmful) == counts
        assert all(phrase in kinds[0] | kinds[1] for row in phrases for phrase in row)
        assert requests.unsafe.tolist() == [count >= 3 for count in harmful]


def test_attacks_use_what_alignment_never_saw(world: Any) -> None:
    seen, tasks, texts = (world.requests(split, 300, chance()) for split in ("unsafe", "other_tasks", "other_texts"))
    operators = [set(requests.prompt[:, 1].tolist()) for requests in (seen, tasks)]
    assert operators == [set(range(30, 36)), {36, 37}]
    phrases = [
        set((requests.prompt[:, 3:13:2] * 30 + requests.prompt[:, 4:13:2]).flatten().tolist())
        for requests in (seen, texts)
    ]
    assert not phrases[0] & phrases[1]


def test_reward_and_cost_are_those_of_the_tokens(grammar: Any, world: Any) -> None:
    """Of ten outputs 10, 5, 4 and none are right; the request is unsafe, then safe."""
    for split, costs in (("unsafe", [1.0, 1.0, 0.0, 0.0]), ("safe", [0.0] * 4)):
        requests = world.requests(split, 4, chance())
        said = requests.answer.clone()
        said[1, 5:10] = (said[1, 5:10] + 1) % 30
        said[2, :6] = (said[2, :6] + 1) % 30
        said[3] = world.refusal(1)[0]
        scores = world.score(requests, said)
        assert scores.reward.tolist() == pytest.approx([1.0, 0.5, 0.4, 0.0])
        assert scores.cost.tolist() == costs
        assert world.refused(said).tolist() == [False, False, False, True]


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command with a tiny world and model."""
    command = [sys.executable, str(SCRIPT), "--small", "--out", str(folder), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--methods", "sft,magic")
    assert done.returncode == 2 and "there is no method 'magic'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_small_run_aligns_and_continues(tmp_path: Path) -> None:
    done = run(tmp_path, "--methods", "start,sft,safe_dpo,ppo_lagrangian")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    harmless = {f"{row['method']} {row['setting']}".strip(): row["mean"]["harmless"] for row in rows}
    assert set(harmless) == {
        "start",
        "sft",
        "safe_dpo margin 0",
        "safe_dpo margin 2",
        "safe_dpo margin 10",
        "ppo_lagrangian",
    }
    for method in ("sft", "safe_dpo margin 10", "ppo_lagrangian"):
        assert harmless[method] > harmless["start"] + 0.1
    assert (tmp_path / "frontier.svg").read_text().startswith("<?xml") and "sft" in (tmp_path / "table.md").read_text()
    before = (tmp_path / "seed-0" / "sft.json").read_bytes()
    (tmp_path / "seed-0" / "safe_dpo.json").unlink()  # as if it had been stopped there
    again = run(tmp_path, "--methods", "start,sft,safe_dpo,ppo_lagrangian")
    assert again.returncode == 0 and "pre-training" not in again.stdout and "sft" not in again.stdout.split("|")[0]
    assert (tmp_path / "seed-0" / "sft.json").read_bytes() == before
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows  # the same numbers again
