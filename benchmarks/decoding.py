"""Sampling with recorded decoding steps beside growing rows: seconds, and whether the tokens are the same.

    python benchmarks/decoding.py        # on a GPU: a Llama of 1.07 B random weights, an adapter on all layers
    python benchmarks/decoding.py --model tiny --rows 8 --new-tokens 16

Rows are everyday questions; every other row may get only half as many tokens, so that rows end at different times. Each
way samples in turn, once to warm up. Without a GPU nothing is recorded: the step over fixed buffers runs each time,
which shows its cost and not its use, and other kernels round bfloat16 otherwise, on which random weights decide.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align import SHAPES, random_model, rows
from poise.data.rows import Sampling
from poise.models import generate as sampling
from poise.models.bundled import resolve
from poise.models.decoding import GrowingSteps, RecordedSteps, cuda_graph
from poise.models.generate import Request, Sampled, chat_ids, generate
from poise.models.trunk import Trunk


def recorded(trunk: Trunk, cache: Any, mask: Tensor, steps: int) -> RecordedSteps:
    """As on a GPU, and where there is none with a step that runs each time."""
    return RecordedSteps(trunk, cache, mask, steps, cuda_graph if torch.cuda.is_available() else again)


def again(step: Any) -> Any:
    """What stands in for a graph."""
    out = step()
    return lambda: out.copy_(step()), out


def requests(trunk: Trunk, count: int, most: int) -> list[Request]:
    """Questions with their seeds and limits."""
    return [
        Request(
            chat_ids(trunk, [{"role": "user", "content": row["prompt"]}]),
            Sampling(temperature=1.0, max_new_tokens=most if number % 2 else most // 2, seed=number),
        )
        for number, row in enumerate(rows(count, False))
    ]


def main() -> None:
    """Sample both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--tokenizer", type=Path, help="folder with SmolLM2's tokenizer, for a machine off the network")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = random_model(told.model, Path(folder), told.tokenizer or resolve("smollm2-135m-instruct"))
        trunk = Trunk(source, roles=("actor",), shared_layers=0, rank=8)
        asked = requests(trunk, told.rows, told.new_tokens)
        taken: dict[str, list[float]] = {"recorded": [], "growing": []}
        texts: dict[str, list[Sampled]] = {}
        for number in range(1 + told.rounds):
            for name, how in (("recorded", recorded), ("growing", GrowingSteps)):
                sampling.steps_for = how  # type: ignore[attr-defined]
                began = time.perf_counter()
                texts[name] = generate(trunk, asked, role="actor")
                if number:
                    taken[name].append(time.perf_counter() - began)
    fast, slow = (statistics.median(taken[name]) for name in ("recorded", "growing"))
    same = sum(a == b for a, b in zip(texts["recorded"], texts["growing"], strict=True))
    print(f"{sum(len(text.ids) for text in texts['growing']):,} tokens of {told.rows} rows: recorded {fast:.2f} s, "
          f"growing {slow:.2f} s, {slow / fast:.2f}x; {same} rows the same")  # fmt: skip


if __name__ == "__main__":
    main()
