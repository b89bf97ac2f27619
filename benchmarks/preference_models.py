"""Our reward and cost model beside TRL's RewardTrainer: same rows, tokens, steps, LoRA rank and layers, learning rate.

    python benchmarks/preference_models.py DIR --trl-python VENV/bin/python

DIR holds the public sets, <name>/<name>.jsonl.gz; VENV has trl and peft. TRL has no cost model: its trainer learns
which response is more harmful, and its score is read as a cost, with its sign at zero and at the point that is best on
the training rows. Test prompts are no near-duplicates of training prompts. Intervals are over prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from poise.errors import in_one_line
from poise.metrics import auroc
from poise.models.bundled import resolve
from poise.models.trunk import Trunk
from poise.preference.facts import source_of
from poise.preference.judged import Judged, encode
from poise.preference.measures import Items, Scores
from poise.preference.pairs import Example, Pair, PreferenceData, planned_steps
from poise.preference.recipe import SYSTEM, PreferenceRecipe
from poise.preference.runs import Watch, read_rows
from poise.preference.scorer import build_trunk
from poise.preference.training import PreferenceTraining, score_examples, train_preference

REWARD = ("tulu_human_eval", "pandalm_human", "llmbar", "dpo_en_demo")
COST = ("pku_saferlhf_pairs",)


def main() -> None:
    """Train both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--trl-python", type=Path, help="Python with trl and peft; without it only our side runs")
    parser.add_argument("--reward-pairs", type=int, default=1000)
    parser.add_argument("--cost-pairs", type=int, default=1500)
    parser.add_argument("--test-pairs", type=int, default=400, help="of each kind at most")
    parser.add_argument("--layers", type=int, default=6, help="upper layers with adapters")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--pairs-per-step", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs=2, default=(96, 96), help="of a prompt and a response at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = resolve("smollm2-135m-instruct")
    parts = rows_of(args)
    trunk = new_trunk(model, args, shared=False)
    limits = (SYSTEM, *args.tokens, Counter[str]())
    train = encode(trunk, parts["train"], *limits)
    kinds = {
        "reward": chosen(train, "reward", args.reward_pairs),
        "cost": chosen(train, "cost", args.cost_pairs),
    }
    whole = encode(trunk, parts["test"], *limits)
    tests = {"reward": chosen(whole, "reward", args.test_pairs), "cost": chosen(whole, "cost", args.test_pairs)}
    count = {kind: (len(kinds[kind].pairs), len(tests[kind].pairs)) for kind in kinds}
    print("\n".join(f"{kind}: {n:,} training pairs, {m:,} test pairs" for kind, (n, m) in count.items()), flush=True)
    ours(args, model, kinds, tests)
    if args.trl_python:
        theirs(args, model, trunk, kinds, tests)


def rows_of(args: Any) -> dict[str, list[Judged]]:
    """Conversations by part."""
    recipe = PreferenceRecipe.model_validate(
        {"head": {"name": "benchmark", "seed": args.seed}, "reward": {"sets": REWARD}, "cost": {"sets": COST}}
    )
    return read_rows(recipe, [source_of(name, args.data, {}) for name in (*REWARD, *COST)], Watch()).parts


def new_trunk(model: Any, args: Any, *, shared: bool) -> Trunk:
    """Fresh adapters."""
    return build_trunk(model, shared=shared, adapted_layers=args.layers, rank=args.rank, seed=args.seed)


def chosen(data: PreferenceData, kind: str, most: int) -> PreferenceData:
    """Pairs of one kind, evenly drawn, each a step's unit of its own, so that both sides take the same pairs a step."""
    side = "better" if kind == "reward" else "safer"
    fitting = [pair for pair in data.pairs if getattr(pair, side) is not None]
    some = fitting[:: max(1, len(fitting) // most)][:most]
    used = sorted({row for pair in some for row in pair.rows})
    place = {row: at for at, row in enumerate(used)}
    other = {"safer": None} if kind == "reward" else {"better": None}
    pairs = [pair._replace(rows=(place[pair.rows[0]], place[pair.rows[1]]), **other) for pair in some]
    return PreferenceData([data.examples[row] for row in used], pairs, [[at] for at in range(len(pairs))])


def settings_of(args: Any) -> PreferenceTraining:
    """One pass in packed batches."""
    return PreferenceTraining(1, args.pairs_per_step, args.learning_rate, 0.001, args.seed, max_tokens=4096)


def ours(args: Any, model: Any, kinds: dict[str, PreferenceData], tests: dict[str, PreferenceData]) -> None:
    """Two adapters, each on its pairs; then one adapter with two heads on all pairs."""
    trunk = new_trunk(model, args, shared=False)
    for kind, data in kinds.items():
        started = time.perf_counter()
        history = train_preference(trunk, data, settings_of(args))
        seconds = time.perf_counter() - started
        padding = sum(history["padding"]) / sum(history["tokens"])
        scores = scored(trunk, kind, data, tests[kind])
        report(f"Poise, {kind} adapter", kind, data, tests[kind], scores, seconds, args.seed)
        print(f"    padding {100 * padding:.1f} %", flush=True)
    trunk = new_trunk(model, args, shared=True)
    both = joined(kinds["reward"], kinds["cost"])
    started = time.perf_counter()
    train_preference(trunk, both, settings_of(args))
    seconds = time.perf_counter() - started
    for kind, data in kinds.items():
        scores = scored(trunk, kind, data, tests[kind])
        report(f"Poise, one adapter, {kind} head", kind, data, tests[kind], scores, seconds, args.seed)


def scored(trunk: Trunk, kind: str, train: PreferenceData, test: PreferenceData) -> dict[str, Scores]:
    """Of the test rows, and of the training rows where the best point is looked for."""
    parts = {"test": test} | ({"train": train} if kind == "cost" else {})
    return {name: score_examples(trunk, part, max_tokens=4096)[kind].double().numpy() for name, part in parts.items()}


def joined(first: PreferenceData, second: PreferenceData) -> PreferenceData:
    """Both sets of pairs."""
    shift, examples = len(first.examples), [*first.examples, *second.examples]
    moved = [pair._replace(rows=(pair.rows[0] + shift, pair.rows[1] + shift)) for pair in second.pairs]
    pairs = [*first.pairs, *moved]
    return PreferenceData(examples, pairs, [[at] for at in range(len(pairs))])


def theirs(
    args: Any, model: Any, trunk: Trunk, kinds: dict[str, PreferenceData], tests: dict[str, PreferenceData]
) -> None:
    """TRL in a process of its own."""
    layers = AutoConfig.from_pretrained(model).num_hidden_layers
    for kind, data in kinds.items():
        plan = planned_steps(data, args.pairs_per_step, 1, args.seed)
        order = [directed(data.pairs[at], kind) for step in plan for at in step.pairs]
        job = {
            "model": str(model),
            "dtype": str(trunk.model.dtype).removeprefix("torch."),
            "seed": args.seed,
            "rank": args.rank,
            "first_layer": max(0, layers - args.layers),
            "pairs_per_step": args.pairs_per_step,
            "learning_rate": args.learning_rate,
            "warmup_steps": max(1, len(plan) // 20),
            "pairs": [[ids(data.examples[high]), ids(data.examples[low])] for high, low in order],
            "score": [ids(e) for e in (*data.examples, *tests[kind].examples)],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "job.json"
            path.write_text(json.dumps(job), encoding="utf-8")
            command = [str(args.trl_python), str(Path(__file__).with_name("trl_reward.py")), str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            got = json.loads(path.with_suffix(".scores.json").read_text())
        n = len(data.examples)
        scores = {"train": np.array(got["scores"][:n]), "test": np.array(got["scores"][n:])}
        report(f"TRL RewardTrainer, {kind}", kind, data, tests[kind], scores, got["seconds"], args.seed)


def directed(pair: Pair, kind: str) -> tuple[int, int]:
    """(example that shall score higher, the other): the better one, or the more harmful one."""
    if kind == "reward":
        assert pair.better is not None
        return pair.rows[pair.better], pair.rows[1 - pair.better]
    assert pair.safer is not None
    return pair.rows[1 - pair.safer], pair.rows[pair.safer]


def ids(example: Example) -> list[int]:
    """Prompt and response."""
    return [*example.prompt, *example.response]


def report(
    name: str,
    kind: str,
    train: PreferenceData,
    test: PreferenceData,
    scores: dict[str, Scores],
    seconds: float,
    seed: int,
) -> None:
    """One line: pair accuracy, and for a cost sign accuracy at zero and at the training rows' best point, AUROC."""
    pairs = [directed(pair, kind) for pair in test.pairs]
    s = scores["test"]
    hits = np.array([s[high] > s[low] for high, low in pairs], dtype=float)
    prompts = Items([tuple(test.examples[high].prompt) for high, _ in pairs], seed)
    words = [f"pairs {_words(prompts.mean(hits))}"]
    if kind == "cost":
        unsafe = np.array([bool(e.unsafe) for e in test.examples])
        by_prompt = Items([tuple(e.prompt) for e in test.examples], seed)
        words.append(f"signs {_words(by_prompt.mean(((s > 0) == unsafe).astype(float)))}")
        point = best_point(scores["train"], np.array([bool(e.unsafe) for e in train.examples]))
        words.append(f"at the best training point {_words(by_prompt.mean(((s > point) == unsafe).astype(float)))}")
        words.append(f"AUROC {_words(by_prompt.interval(lambda at: auroc(s[at], unsafe[at])))}")
    print(f"{name}: {', '.join(words)}; {seconds:,.0f} s", flush=True)


def best_point(scores: Any, unsafe: Any) -> float:
    """The score above which most training rows are unsafe and below which most are safe."""
    order = np.argsort(scores)
    right = np.cumsum(~unsafe[order]) + unsafe.sum() - np.cumsum(unsafe[order])
    return float(scores[order][int(np.argmax(right))])


def _words(interval: dict[str, Any]) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


if __name__ == "__main__":
    with in_one_line():
        main()
