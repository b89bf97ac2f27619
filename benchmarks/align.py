"""Alignment training beside TRL: the same model, rows, shapes and precision, alternating in one run.

    python -m venv trl && trl/bin/pip install trl peft
    python benchmarks/align.py --trl trl/bin/python
    python benchmarks/align.py --trl trl/bin/python --only dpo --models tiny --spread   # unequal lengths
    python benchmarks/align.py --trl trl/bin/python --models 1b,1b-upper --precisions bf16 --times 8   # on a GPU

Both sides live in their own process and take turns: some steps of ours, some of TRL's, and so on. What counts is the
median over rounds of the ratio within a round, so that a busy machine troubles both alike. Work:

  tiny    Llama of 4 layers, 256 wide, SmolLM2's 49,152 words (15.5 M parameters), all weights trained (`tiny`), or LoRA
          of rank 8 on all linear layers (`tiny-lora`)
  smol    SmolLM2-135M-Instruct; LoRA of rank 8 on all linear layers (`smol`), or of the upper 10 of 30 (`upper`)
  1b      Llama of 16 layers, 2,048 wide, random weights (1.07 B parameters), for a GPU: LoRA of rank 8 on all linear
          layers (`1b`), or of the upper 6 (`1b-upper`)
  dpo     4 pairs a step, beta 0.1; TRL once as it comes and once with `precompute_ref_log_probs`
  reward  8 pairs a step; ours trains a reward and a cost head in one pass, TRL's RewardTrainer a reward head
  grpo    4 prompts x 4 samples of 32 tokens a step; TRL's reward and cost are word counts and there is no reference;
          ours has a moving multiplier, and but for `tiny` a reward model, a cost model and a reference as well

`--times N` takes N times as many pairs or prompts in a step, `--new-tokens` other samples. Where there is a GPU both
sides take it, and peak memory is that of the GPU.

But for `tiny`, ours are the trainers of `poise align` as they are, checks, history and all.

The rows are polite and rude answers to everyday questions, made here: about 40 tokens of prompt and 25 of answer;
`--spread` draws answers of 5 to 200 tokens instead. AdamW, rate 1e-4, gradients clipped at 1, no accumulation, no
gradient checkpointing, no evaluation. Precision `fp32` on both sides; `bf16`: weights in bfloat16 and adapters in
float32 on both sides (TRL: `dtype=bfloat16` and `bf16=True`); `autocast`: as TRL's `bf16=True` does, weights in
float32, ours as in `bf16`.

Under a line of `grpo` with adapters stands what a step of ours spends where.

`train` is pairs a second in training steps alone. `epoch` adds to each pair what is computed once for it before (the
reference's log-probabilities of ours and of TRL's `precompute_ref_log_probs`), that is one epoch from start to end.
`_cpu` are the same ratios in CPU seconds of the process, which other processes disturb less; take `--threads 1` for
them, since threads that wait for each other burn CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from poise.models.bundled import resolve

HERE = Path(__file__).parent
REWARD_WORDS = ("thank", "please", "happy", "glad", "welcome", "help")
COST_WORDS = ("silly", "stop", "never", "ugh")


class Case(NamedTuple):
    """One comparison. Args: precompute: of TRL's DPOTrainer."""

    method: str
    model: str
    precision: str
    precompute: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.model} {self.precision}" + (" precomputed" if self.precompute else "")


class Side:
    """A worker. Attributes: taken: (wall seconds, CPU seconds) of one step, one entry a round."""

    def __init__(self, python: str, script: str, task: Path) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
        if python != sys.executable:
            environment.pop("PYTHONPATH", None)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- lives as long as the worker
        self.process = subprocess.Popen(
            [python, str(HERE / script), str(task)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment,
        )  # fmt: skip
        self.about = self.hear()
        self.steps, self.taken = 1, list[tuple[float, float]]()

    def hear(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@@"):
                answer: dict[str, Any] = json.loads(line[2:])
                return answer
        self.log.seek(0)
        raise SystemExit(f"{self.process.args!r} ended:\n{self.log.read()[-3000:]}")

    def run(self) -> tuple[float, float]:
        """Some steps; wall and CPU seconds of one."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.steps}\n")
        self.process.stdin.flush()
        self.about = answer = self.hear()
        return answer["seconds"] / self.steps, answer["cpu"] / self.steps

    def settle(self, seconds: float) -> None:
        """Choose how many steps make a round of about so many seconds."""
        self.steps = max(1, min(40, round(seconds / self.run()[0])))

    def round(self) -> None:
        """One round."""
        self.taken.append(self.run())

    def stop(self) -> None:
        """End the worker."""
        assert self.process.stdin is not None
        self.process.stdin.write("0\n")
        self.process.stdin.close()
        self.process.wait(60)


def rows(count: int, spread: bool, seed: int = 0) -> list[dict[str, str]]:
    """Preference pairs; with `spread`, answers of 5 to 200 tokens in a long-tailed distribution."""
    chance = random.Random(seed)
    openings = ["How do I", "Can you tell me how to", "What is the best way to", "Please explain how to"]
    tasks = ["bake bread", "fix a flat tyre", "plan a picnic", "brew green tea", "fold a paper crane", "mend a sock"]
    tails = ["", " at home", " this weekend", " with a friend", " on a small budget"]
    bodies = ["begin with the basics and take one step at a time", "read the instructions once and try it slowly"]
    polite = [("Thank you for asking! ", " Please tell me if I can help further."), ("Gladly. ", " You are welcome.")]
    rude = [("Ugh, that is a silly question: ", " Stop asking me this."), ("Fine, ", " Never ask again.")]

    def answer(style: list[tuple[str, str]]) -> str:
        before, after = chance.choice(style)
        words = chance.choice(bodies)
        if spread:
            wanted = int(min(190, max(1, chance.lognormvariate(3.6, 0.9))))
            words = " ".join((words.split() * 20)[:wanted])
        return f"{before}{words}.{after}"

    def question() -> str:
        return f"{chance.choice(openings)} {chance.choice(tasks)}{chance.choice(tails)}?"

    return [{"prompt": question(), "chosen": answer(polite), "rejected": answer(rude)} for _ in range(count)]


SHAPES = {  # hidden size, width of the MLP, layers, heads, of them for keys
    "tiny": (256, 704, 4, 8, 4),
    "1b": (2048, 8192, 16, 32, 8),
}
LAYERS = {"tiny": 4, "smol": 30, "1b": 16}
ADAPTED_FROM = {"tiny": None, "tiny-lora": 0, "smol": 0, "upper": 20, "1b": 0, "1b-upper": 10}  # None: all weights


def base_of(model: str) -> str:
    """The weights that a model of `--models` begins from."""
    return "smol" if model == "upper" else model.partition("-")[0]


def random_model(name: str, folder: Path, tokenizer_from: Path | str) -> str:
    """Writes one of `SHAPES`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    hidden, wide, layers, heads, keys = SHAPES[name]
    config = LlamaConfig(
        vocab_size=49152, hidden_size=hidden, intermediate_size=wide, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(config).to(torch.bfloat16 if name == "1b" else torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_from).save_pretrained(folder)
    return str(folder)


def task_of(case: Case, models: dict[str, str], args: argparse.Namespace) -> dict[str, Any]:
    """What both workers read."""
    return {
        "method": case.method,
        "model": models[base_of(case.model)],
        "layers": LAYERS[base_of(case.model)],
        "lora": ADAPTED_FROM[case.model],
        "precision": case.precision,
        "precompute": case.precompute,
        "rows": rows(args.rows, args.spread),
        "per_step": args.times * (8 if case.method == "reward" else 4),
        "samples": 4,
        "new_tokens": args.new_tokens,
        "max_length": 512,
        "threads": args.threads,
        "reward_words": REWARD_WORDS,
        "cost_words": COST_WORDS,
    }


def compare(case: Case, models: dict[str, str], args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run one case."""
    task = task_of(case, models, args)
    file = folder / "task.json"
    file.write_text(json.dumps(task), encoding="utf-8")
    sides = [Side(sys.executable, "align_ours.py", file), Side(args.trl, "align_trl.py", file)]
    for side in sides:
        side.settle(args.seconds)
    for number in range(args.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            side.round()
    for side in sides:
        side.stop()
    result = {"case": str(case), "unit": "prompts" if case.method == "grpo" else "pairs", **measured(sides, task)}
    print(
        f"{case!s:30s} {result['ours']:7.2f} {result['trl']:7.2f} {result['unit']}/s  "
        + "  ".join(f"{name} {told(result[name])}" for name in ("train", "epoch", "train_cpu", "epoch_cpu"))
        + f"  peak MiB {result['peak_mib'][0]:,} / {result['peak_mib'][1]:,}",
        flush=True,
    )
    if parts := result["parts"]:
        shares = (f"{name} {seconds / sum(parts.values()):.0%}" for name, seconds in parts.items())
        print("  a step of ours: " + ", ".join(shares), flush=True)
    return result


def measured(sides: list[Side], task: dict[str, Any]) -> dict[str, Any]:
    """Rates (items a second of training steps), and ratios as (median, least, most) over rounds."""
    items, out = task["per_step"], dict[str, Any]()
    for at, suffix in enumerate(("", "_cpu")):
        step = [[taken[at] / items for taken in side.taken] for side in sides]
        before = [side.about[f"before{suffix}"] / side.about["of_rows"] for side in sides]
        for name, (mine, other) in {"train": (0.0, 0.0), "epoch": before}.items():
            ratios = [(theirs + other) / (ours + mine) for ours, theirs in zip(*step, strict=True)]
            out[name + suffix] = (statistics.median(ratios), min(ratios), max(ratios))
        out[f"before_per_row{suffix}"] = before
        if at == 0:
            out |= {name: 1 / statistics.median(each) for name, each in zip(("ours", "trl"), step, strict=True)}
    told = {name: [side.about[name] for side in sides] for name in ("trained", "peak_mib")}
    return out | told | {"versions": sides[1].about["versions"], "parts": sides[0].about["parts"]}


def told(ratio: tuple[float, float, float]) -> str:
    """A ratio in words."""
    return f"{ratio[0]:.2f}x [{ratio[1]:.2f}, {ratio[2]:.2f}]"


def cases(args: argparse.Namespace) -> list[Case]:
    """What was asked for; the tiny model is run in float32 alone."""
    out = []
    for model in args.models.split(","):
        for precision in ["fp32"] if model.startswith("tiny") else args.precisions.split(","):
            for method in args.only.split(","):
                out.append(Case(method, model, precision))
                if method == "dpo":
                    out.append(Case(method, model, precision, precompute=True))
    return out


def main() -> None:
    """Parse options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", required=True, help="python of an environment with trl and peft")
    parser.add_argument("--only", default="dpo,reward,grpo")
    parser.add_argument("--models", default="tiny,tiny-lora,smol,upper")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round, about")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--times", type=int, default=1, help="as many pairs or prompts in a step")
    parser.add_argument("--new-tokens", type=int, default=32, help="of a sample, in grpo")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spread", action="store_true", help="answers of very unequal lengths")
    parser.add_argument("--tokenizer", type=Path, help="folder with SmolLM2's tokenizer, for a machine off the network")
    parser.add_argument("--out", type=Path, help="also write the results to this JSON file")
    args = parser.parse_args()
    if args.rows < 8 * args.times:
        parser.error(f"--times {args.times} needs --rows {8 * args.times} or more")
    if shutil.which(args.trl) is None:
        parser.error(f"--trl {args.trl}: no such program; make an environment with trl and peft")
    with tempfile.TemporaryDirectory() as folder:
        smol = args.tokenizer or resolve("smollm2-135m-instruct")
        models = {"smol": str(smol)}
        for name in {base_of(model) for model in args.models.split(",")} & SHAPES.keys():
            models[name] = random_model(name, Path(folder) / name, smol)
        results = [compare(case, models, args, Path(folder)) for case in cases(args)]
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
