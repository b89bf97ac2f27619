"""TRL's side of `benchmarks/preference_models.py`, run by the Python of an environment with trl and peft.

    python trl_reward.py JOB.json

The job holds token ids of training pairs in the order of the steps, token ids to score, and the settings. Written
beside it: `<job>.scores.json` with a score for each, and the seconds of the training loop. It imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer


class InOrder(RewardTrainer):
    """The same steps as the other side."""

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


def main() -> None:
    """Train, score, write."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.manual_seed(job["seed"])
    dtype = getattr(torch, job["dtype"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=1, dtype=dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    layers = list(range(job["first_layer"], model.config.num_hidden_layers))
    adapter = LoraConfig(
        task_type="SEQ_CLS",
        r=job["rank"],
        lora_alpha=2 * job["rank"],
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=layers,
        modules_to_save=["score"],
    )
    with tempfile.TemporaryDirectory() as folder:
        args = RewardConfig(
            folder,
            per_device_train_batch_size=job["pairs_per_step"],
            num_train_epochs=1,
            learning_rate=job["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=job["warmup_steps"],
            weight_decay=0.0,
            max_length=None,
            gradient_checkpointing=False,
            bf16=dtype == torch.bfloat16,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=50,
            seed=job["seed"],
        )
        rows = Dataset.from_list([{"chosen_ids": high, "rejected_ids": low} for high, low in job["pairs"]])
        trainer = InOrder(model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        scores = _score(trainer.model, job["score"], tokenizer.pad_token_id, dtype)
    out = {"scores": scores, "seconds": seconds, "steps": trainer.state.global_step}
    path.with_suffix(".scores.json").write_text(json.dumps(out), encoding="utf-8")


@torch.inference_mode()
def _score(model: Any, rows: list[list[int]], pad: int, dtype: torch.dtype) -> list[float]:
    model.eval()
    out = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        width = max(len(rows[at]) for at in chosen)
        ids = torch.tensor([rows[at] + [pad] * (width - len(rows[at])) for at in chosen])
        kept = torch.tensor([[1] * len(rows[at]) + [0] * (width - len(rows[at])) for at in chosen])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=kept).logits[:, 0].float()
        for at, score in zip(chosen, logits.tolist(), strict=True):
            out[at] = score
    return out


if __name__ == "__main__":
    main()
