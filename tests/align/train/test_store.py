"""Log-probabilities and losses of pairs against whole logits of the model, whatever is kept on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poise.align.train import Recipe
from poise.align.train.batches import EncodedPair, Store, encode_pairs, pair_log_probs
from poise.align.train.data import read_pairs
from poise.align.train.phases import Job, phases_of
from poise.errors import PoiseError
from poise.models.trunk import Trunk


@pytest.fixture
def trunk(make_trunk: Callable[..., Trunk]) -> Trunk:
    """With an actor that is not the reference."""
    made = make_trunk("actor", shared_layers=2, rank=4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in made.state_of("actor").values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return made


@pytest.fixture
def pairs(trunk: Trunk, pair_file: Path) -> list[EncodedPair]:
    """Of the file."""
    return encode_pairs(trunk, read_pairs([pair_file]).pairs, 48, 40).pairs


@torch.no_grad()
def by_whole_logits(trunk: Trunk, pair: EncodedPair, role: str) -> list[float]:
    """log pi(y | x) of both responses, each in a row of its own."""
    out = []
    for response in pair.responses:
        ids = torch.tensor([[*pair.prompt, *response]])
        with trunk.role(role):
            log_prob = trunk.model(ids).logits.log_softmax(-1)[0]
        places = range(len(pair.prompt) - 1, ids.shape[1] - 1)
        out.append(sum(float(log_prob[at, ids[0, at + 1]]) for at in places))
    return out


@pytest.mark.parametrize("limit", [0, 60_000, 10**9])
def test_log_probs_are_those_of_whole_logits(
    trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path, limit: int
) -> None:
    store = Store(trunk, pairs, tmp_path, limit)
    for role in ("reference", "actor"):
        expected = torch.tensor([by_whole_logits(trunk, pair, role) for pair in pairs])
        assert torch.allclose(store.log_probs(role), expected, atol=1e-3)
    size = (tmp_path / "lower.bin").stat().st_size
    tokens = sum(pair.tokens for pair in pairs)
    assert size == 0 if not limit else size <= limit
    assert limit < 10**9 or size == tokens * 32 * 4  # hidden 32, float32
    again = Store(trunk, pairs, tmp_path, limit)
    assert torch.equal(again.log_probs("actor"), store.log_probs("actor"))
    chosen = [0, 7, 11]
    kept, computed = (s.lower(chosen, s.lay_out(chosen)) for s in (again, Store(trunk, pairs, tmp_path / "none", 0)))
    real = [part.mask.any(1)[:, 0] if part.mask is not None else None for part in store.lay_out(chosen).parts]
    for one, two, mask in zip(kept, computed, real, strict=True):
        assert mask is not None and torch.allclose(one[mask], two[mask], atol=1e-5)


def test_outputs_are_kept_where_each_response_has_its_own_prompt(
    trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a model that can't tell two responses behind one prompt apart."""
    monkeypatch.setattr("poise.align.train.batches.can_pack", lambda model: False)
    store = Store(trunk, pairs, tmp_path, 10**9)
    values = store.log_probs("actor")
    assert torch.allclose(values, torch.tensor([by_whole_logits(trunk, pair, "actor") for pair in pairs]), atol=1e-3)
    rows = sum(pair.tokens + len(pair.prompt) for pair in pairs)
    assert (tmp_path / "lower.bin").stat().st_size == rows * 32 * 4  # hidden 32, float32
    chosen = [0, 7, 11]
    layout = store.lay_out(chosen)
    monkeypatch.setattr(trunk, "lower", None)  # nothing is computed again
    again = pair_log_probs(trunk, store.lower(chosen, layout), layout, "actor")
    assert torch.allclose(again, values[chosen], atol=1e-3)


def test_a_torn_file_is_written_again(trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path) -> None:
    before = Store(trunk, pairs, tmp_path, 10**9).log_probs("reference")
    file = tmp_path / "lower.bin"
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(Store(trunk, pairs, tmp_path, 10**9).log_probs("reference"), before)
    assert file.stat().st_size > 100


def test_a_log_prob_that_is_no_number_names_its_row(
    trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Tensor:
        return torch.full((len(arguments[2].prompts), 2), math.nan)

    monkeypatch.setattr("poise.align.train.batches.pair_log_probs", broken)
    with pytest.raises(PoiseError, match=r"pairs\.jsonl row 1: a log-probability of reference is not a number") as told:
        Store(trunk, pairs, tmp_path, 0).log_probs("reference")
    assert told.value.exit_code == 4


def job(recipe: Recipe, trunk: Trunk, pairs: list[EncodedPair], folder: Path) -> Job:
    def none() -> tuple[Tensor, Tensor]:
        raise AssertionError("nothing is scored")

    return Job(recipe, trunk, Store(trunk, pairs, folder, 10**9), [False] * len(pairs), none, {})


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_losses_are_those_of_the_papers_on_the_rows_labels(
    make_recipe: Callable[..., Recipe], trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path
) -> None:
    """Every pair's loss by hand from whole logits: which response is chosen, and which flags go with it."""

    def gap(pair: EncodedPair, chosen: int) -> float:
        ratio = [
            one - two
            for one, two in zip(
                by_whole_logits(trunk, pair, "actor"), by_whole_logits(trunk, pair, "reference"), strict=True
            )
        ]
        return ratio[chosen] - ratio[1 - chosen]

    def dpo(pair: EncodedPair) -> float:
        assert pair.text.safer is not None
        return -math.log(s(0.1 * gap(pair, pair.text.safer)))

    def safe_dpo(pair: EncodedPair) -> float:
        better, unsafe = pair.text.better, pair.text.unsafe
        assert better is not None
        chosen = 1 - better if unsafe[better] else better
        return -math.log(s(0.1 * gap(pair, chosen) - (2.0 if unsafe[0] != unsafe[1] else 0.0)))

    def bfpo(pair: EncodedPair) -> float:
        better, unsafe = pair.text.better, pair.text.unsafe
        assert better is not None
        table = {(False, False): 0.5, (False, True): 1.0, (True, False): -1.0, (True, True): -0.5}
        target = table[bool(unsafe[better]), bool(unsafe[1 - better])] / 0.1
        return (gap(pair, better) - target) ** 2

    cases: list[tuple[str, dict[str, Any], Callable[[EncodedPair], float], int]] = [
        ("dpo", {"dpo": {"label": "safer"}}, dpo, 24),
        ("safe_dpo", {"safe_dpo": {"margin": 2.0}}, safe_dpo, 18),
        ("bfpo", {"bfpo": {"tau": 0.1}}, bfpo, 24),
    ]
    for name, section, by_hand, used in cases:
        (tmp_path / name).mkdir()
        (phase,) = phases_of(job(make_recipe(name, **section), trunk, pairs, tmp_path / name))
        objective = phase.make()
        assert len(objective.train) == used
        objective.prepare([objective.train])
        for item in objective.train[::5]:
            loss = float(objective.measure([item]).loss.detach())
            assert loss == pytest.approx(by_hand(pairs[item]), rel=1e-3, abs=1e-3), (name, item)


def test_derta_learns_the_safe_answer_and_a_refusal_everywhere(
    make_recipe: Callable[..., Recipe], trunk: Trunk, pairs: list[EncodedPair], tmp_path: Path
) -> None:
    (phase,) = phases_of(job(make_recipe("derta"), trunk, pairs, tmp_path))
    objective = phase.make()
    mixed = [pair for pair in pairs if set(pair.text.unsafe) == {True, False}]
    assert len(objective.train) == len(mixed) == 6
    end = trunk.tokenizer.eos_token_id
    for item, pair in enumerate(mixed):
        bad = pair.text.unsafe.index(True)
        harmful = [token for token in pair.responses[bad] if token != end]
        assert objective.weights[item] == len(pair.responses[1 - bad]) + len(harmful)
        assert objective.where(item) == pair.text.where
