"""Two processes over gloo take the steps that one takes: same loss curve, same lambda, one writer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from poise.align.algorithms.dpo import DPO
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.core import response_log_probs, sequence_log_probs
from poise.align.engine.processes import (
    World,
    agreed,
    average_gradients,
    by_first,
    is_first,
    joined,
    mine,
    share,
    shared_out,
    sum_gradients,
    total,
    world,
)
from poise.align.multiplier import LogMultiplier
from poise.align.multiplier.window import gathered
from poise.errors import PoiseError

STEPS, PAIRS, VOCABULARY, WIDTH = 6, 5, 12, 8


class Speaker(nn.Module):
    """A recurrent language model of some 800 weights."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.cell = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.unused = nn.Linear(WIDTH, 1)

    def log_prob(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """log pi(y | x) float[B]."""
        hidden, _ = self.cell(self.embed(ids))
        return sequence_log_probs(response_log_probs(hidden, self.head.weight, ids, mask), mask)


def pair(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of a chosen and a rejected response after a prompt of two tokens; lengths differ."""
    chance = torch.Generator().manual_seed(number)
    length = 4 + number % 3
    chosen, rejected = (torch.randint(0, VOCABULARY, (length,), generator=chance) for _ in range(2))
    return chosen, rejected


def train() -> dict[str, object]:
    """DPO by hand on this process's share of each step, and a multiplier that hears every process's costs."""
    policy, reference = Speaker(7 + world().rank), Speaker(7)  # the ranks start apart, `share` brings them together
    share(policy.parameters())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.05)
    multiplier = LogMultiplier(threshold=0.1, initial=1.0, lr=0.5)
    losses, lambdas = [], []
    for step in range(STEPS):
        numbers = mine(range(PAIRS))  # five pairs: the processes' shares are unequal
        summed = torch.zeros(())
        for number in numbers:
            ids = torch.stack(pair(number))
            mask = torch.ones_like(ids, dtype=torch.bool)
            mask[:, :2] = False
            with torch.no_grad():
                before = reference.log_prob(ids, mask)
            now = policy.log_prob(ids, mask)
            summed = summed + DPO(0.5).loss(PairLogProbs(now[:1], now[1:], before[:1], before[1:])).loss.sum()
        optimizer.zero_grad()
        (summed / len(numbers)).backward()
        average_gradients(policy.parameters(), len(numbers))
        assert policy.unused.weight.grad is None
        optimizer.step()
        losses.append(total([float(summed.detach())])[0] / PAIRS)
        lambdas.append(multiplier.update(gathered([0.3 * number - 0.15 * step for number in numbers])))
    return {"losses": losses, "lambdas": lambdas, "weight": float(policy.head.weight.detach().sum())}


def launched(folder: Path, mode: str, size: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """Run this file in `size` processes, as a launcher does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **{name: str(value) for name, value in told.items()}, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(folder), mode]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True))
    done = []
    for process in started:
        out, err = process.communicate(timeout=120)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    done = launched(tmp_path, "train")
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    alone = train()
    assert len(alone["losses"]) == STEPS and alone["losses"][0] > 1.1 * alone["losses"][-1]
    for run in (first, second):
        assert run["losses"] == pytest.approx(alone["losses"], abs=1e-5)
        assert run["lambdas"] == pytest.approx(alone["lambdas"], rel=1e-12)
        assert run["weight"] == pytest.approx(alone["weight"], abs=1e-5)
    assert first == second  # to the last bit, lambda among it
    assert len(set(first["lambdas"])) == STEPS  # it moved
    assert (tmp_path / "written").read_text() == "by 0"


def test_a_failure_of_the_writer_stops_the_others(tmp_path: Path) -> None:
    done = launched(tmp_path, "fail")
    assert [process.returncode for process in done] == [1, 1]
    assert "no space" in done[0].stderr
    assert "the first process could not write" in done[1].stderr


def test_alone_everything_is_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as here:
        assert here == world() == World(0, 1)
    assert is_first() and mine("abc") == ["a", "b", "c"] and total([1.5]) == [1.5]
    assert agreed(True) and not agreed(False)
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, 2.0])
    average_gradients([weight], 3)
    sum_gradients([weight])
    share([weight])
    assert weight.grad.tolist() == [1.0, 2.0] and weight.tolist() == [1.0, 1.0]
    seen: list[int] = []
    assert list(shared_out(["ab", "cde"], seen.append)) == ["ab", "cde"] and seen == [2, 3]
    written: list[int] = []
    by_first(lambda: written.append(1))
    assert written == [1]
    with pytest.raises(ValueError, match="a count of rows"):
        average_gradients([weight], -1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("RANK", None, "RANK is not set"),
        ("MASTER_PORT", None, "MASTER_PORT is not set"),
        ("WORLD_SIZE", "two", "'two'"),
    ],
)
def test_a_broken_launch_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, said: str) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in told.items():
        monkeypatch.setenv(key, text)
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(PoiseError, match=said), joined():
        pass


def test_more_processes_than_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, text in told.items():
        monkeypatch.setenv(key, text)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PoiseError, match="process 1 wants card 1, counted from 0, and there is 1") as caught, joined():
        pass
    assert caught.value.do == "start as many processes as cards"


def _no_space() -> None:
    raise OSError("no space left")


def _main(folder: Path, mode: str) -> None:
    torch.set_num_threads(1)
    with joined() as here:
        if mode == "fail":
            by_first(_no_space)
        result = train()
        (folder / f"{here.rank}.json").write_text(json.dumps(result))
        by_first(lambda: (folder / "written").write_text(f"by {here.rank}"))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
