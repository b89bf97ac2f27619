"""TRL's side of `benchmarks/align.py`: a worker that runs some optimizer steps each time it is told to.

It runs in TRL's own environment and imports nothing of Poise. The task is a JSON file; commands are lines on the
standard input (a number of steps), answers are lines on the standard output that begin with "@@".
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

logging.disable(logging.WARNING)
WARM = 2
TASK = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
FORMAT = torch.bfloat16 if TASK["precision"] == "bf16" else torch.float32


def say(**answer: Any) -> None:
    """One answer."""
    print("@@" + json.dumps(answer), flush=True)


def settle() -> None:
    """Wait for what the GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> dict[str, int]:
    """Most memory yet, MiB: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return {"peak_mib": torch.cuda.max_memory_allocated() // 2**20}
    return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10}


class Pace(TrainerCallback):
    """Stops after the steps that were asked for, until it is asked again."""

    def __init__(self, **about: Any) -> None:
        self.left, self.about, self.began, self.cpu = WARM, about, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.left -= 1
        if self.left:
            return
        settle()
        say(seconds=time.perf_counter() - self.began, cpu=time.process_time() - self.cpu, **peak(), **self.about)
        self.left = int(sys.stdin.readline() or 0)
        if not self.left:
            os._exit(0)
        self.began, self.cpu = time.perf_counter(), time.process_time()


class TimedDPO(trl.DPOTrainer):
    """Notes how long the reference's log-probabilities took before the first step."""

    before = before_cpu = 0.0

    def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        result = super()._precompute_ref_logps(*args, **kwargs)
        self.before += time.perf_counter() - began
        self.before_cpu += time.process_time() - cpu
        return result


def settings(kind: Any, **more: Any) -> Any:
    """What is the same for all trainers."""
    common = {
        "output_dir": tempfile.mkdtemp(),
        "max_steps": 10**6,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "seed": 0,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": TASK["precision"] != "fp32",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 1.0,
        "max_length": TASK["max_length"],
    }
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in {**common, **more}.items() if name in names})


def adapter(task: str) -> Any:
    """The same LoRA as ours: all linear layers from `lora` upwards, rank 8, scaling 2."""
    if TASK["lora"] is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(TASK["lora"], TASK["layers"])),
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
        task_type=task,
    )


def chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def polite(completions: list[Any], **_: Any) -> list[float]:
    """Reward: polite words, as in `align.py`."""
    return [float(sum(word in done[0]["content"].lower() for word in TASK["reward_words"])) for done in completions]


def rude(completions: list[Any], **_: Any) -> list[float]:
    """Cost: rude words."""
    return [float(sum(word in done[0]["content"].lower() for word in TASK["cost_words"])) for done in completions]


def build() -> tuple[Any, dict[str, Any]]:
    """The trainer, and what is to be told of it."""
    tokenizer = AutoTokenizer.from_pretrained(TASK["model"])
    rows, batch = TASK["rows"], TASK["per_step"]
    pairs = Dataset.from_list(
        [
            {
                "prompt": chat(row["prompt"]),
                "chosen": [{"role": "assistant", "content": row["chosen"]}],
                "rejected": [{"role": "assistant", "content": row["rejected"]}],
            }
            for row in rows
        ]
    )
    if TASK["method"] == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(TASK["model"], num_labels=1, dtype=FORMAT)
        args = settings(trl.RewardConfig, per_device_train_batch_size=batch)
        kind, data, task, more = trl.RewardTrainer, pairs, "SEQ_CLS", {}
    else:
        model = AutoModelForCausalLM.from_pretrained(TASK["model"], dtype=FORMAT)
        task = "CAUSAL_LM"
        if TASK["method"] == "dpo":
            before = TASK["precompute"]
            args = settings(trl.DPOConfig, per_device_train_batch_size=batch, beta=0.1, precompute_ref_log_probs=before)
            kind, data, more = TimedDPO, pairs, {}
        else:
            args = settings(
                trl.GRPOConfig,
                per_device_train_batch_size=batch * TASK["samples"],
                num_generations=TASK["samples"],
                max_completion_length=TASK["new_tokens"],
                beta=0.0,
                temperature=1.0,
                steps_per_generation=1,
                num_iterations=1,
                reward_weights=[1.0, -1.0],
            )
            data = Dataset.from_list([{"prompt": chat(row["prompt"])} for row in rows])
            kind, more = trl.GRPOTrainer, {"reward_funcs": [polite, rude]}
    trainer = kind(model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=adapter(task), **more)
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    before = {name: getattr(trainer, name, 0.0) for name in ("before", "before_cpu")}
    about = {"trained": trained, **before, "of_rows": len(rows)}
    return trainer, about | {"versions": f"TRL {trl.__version__}, torch {torch.__version__}"}


torch.set_num_threads(TASK["threads"])
trainer, about = build()
trainer.add_callback(Pace(**about))
trainer.train()
