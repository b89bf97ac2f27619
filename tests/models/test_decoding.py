"""A step over fixed buffers decodes what growing rows decode, however rows end and room runs out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from poise.data.rows import Sampling
from poise.models import decoding, generate
from poise.models.decoding import GrowingSteps, RecordedSteps, steps_for
from poise.models.generate import Request
from poise.models.kv_cache import roomy_cache
from poise.models.trunk import Trunk

MakeTrunk = Callable[..., Trunk]


class Recorder:
    """Stands in for a CUDA graph: the same step again, into the same tensor. Args: records: how often it was asked."""

    def __init__(self) -> None:
        self.records = 0
        self.rows: list[int] = []

    def __call__(self, step: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self.records += 1
        out = step().clone()
        self.rows.append(len(out))
        return lambda: out.copy_(step()), out


def requests(count: int, longest: int) -> list[Request]:
    """Prompts of different lengths, some twice, each with its own seed and limit."""
    g = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 600, (1 + (7 * i) % 19,), generator=g).tolist() for i in range(count)]
    return [
        Request(prompts[i % (count - 2)], Sampling(max_new_tokens=1 + (longest * (i + 1)) // count, seed=100 + i))
        for i in range(count)
    ]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Lets `generate` decode with recorded steps."""
    recorder = Recorder()
    monkeypatch.setattr(
        generate, "steps_for", lambda trunk, cache, mask, steps: RecordedSteps(trunk, cache, mask, steps, recorder)
    )
    return recorder


@pytest.mark.parametrize("room", [256, 1])
def test_recorded_steps_write_what_growing_rows_do(
    make_trunk: MakeTrunk, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    trunk, rows, recorder = make_trunk("actor"), requests(12, 24), Recorder()
    plain = generate.generate(trunk, rows, role="actor")
    monkeypatch.setattr(decoding, "_CHUNK", room)
    monkeypatch.setattr(
        generate, "steps_for", lambda trunk, cache, mask, steps: RecordedSteps(trunk, cache, mask, steps, recorder)
    )
    assert generate.generate(trunk, rows, role="actor") == plain
    assert len({len(sampled.ids) for sampled in plain}) > 6, "rows end at different times"
    assert recorder.rows[0] == 12 and sorted(set(recorder.rows), reverse=True) == [12, 6, 3, 1]
    assert (recorder.records == 4) == (room == 256), recorder.records


def test_the_end_token_ends_a_row_that_stays(make_trunk: MakeTrunk, recorder: Recorder) -> None:
    trunk = make_trunk("actor")
    rows = [Request([5, 6, 7], Sampling(max_new_tokens=16, seed=seed)) for seed in range(6)]
    free = generate.generate(trunk, rows)
    trunk.tokenizer.eos_token = trunk.tokenizer.convert_ids_to_tokens(end := free[0].ids[3])
    for before, after in zip(free, generate.generate(trunk, rows), strict=True):
        assert after.finished == (end in before.ids)
        assert after.ids == (before.ids[: before.ids.index(end)] if end in before.ids else before.ids)


def test_states_are_those_of_growing_rows(make_trunk: MakeTrunk) -> None:
    trunk = make_trunk("actor")
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    ids = torch.tensor([[0, 7, 8], [9, 10, 11]])
    steps = list[GrowingSteps | RecordedSteps]()
    with torch.no_grad():
        for recorded in (False, True):
            cache = roomy_cache(trunk.model.config)
            decoding.last_hidden(trunk.decoder, ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
            cache.batch_select_indices(torch.tensor([0, 1]))
            how = trunk, cache, mask, 9
            steps.append(RecordedSteps(*how, Recorder()) if recorded else GrowingSteps(*how))
        for token in ([3, 4], [5, 6], [7, 8]):
            torch.testing.assert_close(*(each.next(torch.tensor(token)) for each in steps))


def test_on_a_cpu_rows_grow(make_trunk: MakeTrunk) -> None:
    trunk = make_trunk("actor")
    assert isinstance(steps_for(trunk, roomy_cache(trunk.model.config), torch.ones(1, 2).long(), 3), GrowingSteps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph, and there is no GPU here")
def test_a_step_that_cannot_be_recorded_runs_each_time_and_the_gpu_still_draws() -> None:
    count = torch.zeros(4, device="cuda")

    def waits() -> Tensor:
        count.add_(1)
        return count * 2 if count.sum().item() > 0 else count  # `item` waits for the GPU

    torch.manual_seed(3)
    wanted = torch.rand(2, device="cuda")
    torch.manual_seed(3)
    again, out = decoding.cuda_graph(waits)
    again()
    assert count.tolist() == [2.0] * 4 and out.tolist() == [4.0] * 4
    assert torch.equal(torch.rand(2, device="cuda"), wanted)
    again, out = decoding.cuda_graph(lambda: count.add_(1) * 2)
    again()
    assert out.tolist() == [count[0].item() * 2] * 4
