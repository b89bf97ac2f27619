"""The same numbers as TRL on the same batch, where TRL is installed (it is no dependency): DPO, IPO and reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from poise.align.algorithms.dpo import DPO, IPO
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.core import response_log_probs, sequence_log_probs
from poise.preference import reward_loss

trl = pytest.importorskip("trl", reason="TRL is not installed")
WORDS = ["<pad>", "<eos>", *"abcdefghij"]
ROWS = [
    {"prompt": "a b c", "chosen": " d e f g", "rejected": " d e h"},
    {"prompt": "b", "chosen": " a", "rejected": " j i h g f e"},
    {"prompt": "c c a", "chosen": " b b", "rejected": " b a"},
]


def tokenizer() -> Any:
    """One token a letter."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>")


def config(**changes: Any) -> Any:
    """One layer, so that the whole takes seconds."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaConfig(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=1, initializer_range=0.5, **sizes, **changes)


def arguments(kind: Any, folder: Path, **changes: Any) -> Any:
    """Settings of a trainer that only ever makes a batch and a loss."""
    return kind(str(folder), report_to=[], use_cpu=True, bf16=False, per_device_train_batch_size=3, **changes)


@pytest.mark.parametrize(("loss_type", "ours", "average"), [("sigmoid", DPO(0.3), False), ("ipo", IPO(0.3), True)])
def test_dpo_and_ipo(tmp_path: Path, loss_type: str, ours: DPO | IPO, average: bool) -> None:
    from datasets import Dataset
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    policy, reference = LlamaForCausalLM(config()), LlamaForCausalLM(config())
    args = arguments(trl.DPOConfig, tmp_path, loss_type=[loss_type], beta=0.3)
    rows = Dataset.from_list(ROWS)
    trainer = trl.DPOTrainer(policy, reference, args=args, train_dataset=rows, processing_class=tokenizer())
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    mask = batch["completion_mask"].bool()
    sums = []
    for model in (policy, reference):
        hidden = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        log_prob = response_log_probs(hidden, model.lm_head.weight, batch["input_ids"], mask)
        sums.append(sequence_log_probs(log_prob, mask, average).chunk(2))
    mine = ours.loss(PairLogProbs(*sums[0], *(x.detach() for x in sums[1]))).loss.mean()
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, list(policy.parameters())) for loss in (mine, theirs)]
    for our, their in zip(*gradients, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("centering", "margins"), [(None, False), (0.3, False), (None, True), (0.3, True)])
def test_reward(tmp_path: Path, centering: float | None, margins: bool) -> None:
    """With and without centring and margins; the squares of Safe RLHF, which TRL has not, are off."""
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config(num_labels=1))
    args = arguments(trl.RewardConfig, tmp_path, center_rewards_coefficient=centering)
    rows = Dataset.from_list([row | ({"margin": at / 2} if margins else {}) for at, row in enumerate(ROWS)])
    trainer = trl.RewardTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer())
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, dict(batch))
    scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    margin = batch["margin"] if margins else 0.0
    mine = reward_loss(*scores.chunk(2), regularization=0.0, margin=margin, centering=centering or 0.0).loss
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
