"""Latency of a guard by engine, beside BERT-base with six logits, which is the architecture of Detoxify.

    poise guard train recipes/guard-starter.yaml --data DIR --out DIR/guard
    python benchmarks/guard_latency.py --guard DIR/guard

Times whole calls, from text to verdict, at 128 and 512 tokens (marks included), one text and 32 at once; all engines in
turn, round after round. Without --guard the bundled encoder with untrained heads stands in, since weights don't change
the time. The peer is BERT-base uncased in size, with random weights: as Detoxify runs it (transformers and torch in
float32), in bfloat16, and in ONNX Runtime like the guard. Our guard reads 512 tokens in windows of its own length.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: idle threads sleep

import numpy as np
import torch

from poise.errors import in_one_line
from poise.guard.calibration import Calibration
from poise.guard.fast.bench import BATCHES, TOKENS, engines_of, lines, measure_engines, processor, texts_of
from poise.guard.fast.guard import session
from poise.guard.fast.network import quantise
from poise.guard.fit.model import GuardModel
from poise.guard.windows import Text
from poise.models.bundled import resolve

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}


class Peer:
    """BERT-base with six sigmoids; one text in, one pass, cut at 512 tokens."""

    def __init__(self, tokenizer: Any, run: Any) -> None:
        self.tokenizer, self.run = tokenizer, run

    def judge(self, texts: Sequence[Text]) -> Any:
        """Six probabilities of each text, shape (N, 6)."""
        first, second = zip(*texts, strict=True)
        batch = self.tokenizer(
            list(first), list(second), padding=True, truncation=True, max_length=512, return_tensors="np"
        )
        return 1 / (1 + np.exp(-self.run(dict(batch))))


def peers(work: Path, threads: int) -> dict[str, Peer]:
    """By engine."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(resolve("all-minilm-l6-v2"))  # the vocabulary of BERT-base uncased
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=6, **BASE)).eval()

    def in_torch(network: torch.nn.Module) -> Any:
        @torch.inference_mode()
        def run(batch: dict[str, Any]) -> Any:
            return network(**{k: torch.from_numpy(v) for k, v in batch.items()}).logits.float().numpy()

        return run

    names = ["input_ids", "token_type_ids", "attention_mask"]
    ids = torch.ones((2, 8), dtype=torch.int64)
    plain, small = work / "bert.onnx", work / "bert-int8.onnx"

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits

    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    model.set_attn_implementation("eager")
    torch.onnx.export(
        Graph(),
        (ids, torch.zeros_like(ids), ids),
        str(plain),
        input_names=names,
        output_names=["logits"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    model.set_attn_implementation("sdpa")
    quantise(plain, small)
    half = BertForSequenceClassification(model.config).to(torch.bfloat16).eval()

    def in_onnx(path: Path) -> Any:
        opened = session(path, threads)
        return lambda batch: opened.run(None, batch)[0]

    runs = {
        "BERT-base onnx": in_onnx(plain),
        "BERT-base onnx-int8": in_onnx(small),
        "BERT-base torch-bf16": in_torch(half),
        "Detoxify (torch-fp32)": in_torch(model),
    }
    return {name: Peer(tokenizer, run) for name, run in runs.items()}


def untrained(folder: Path) -> Path:
    """A guard on the bundled encoder with heads that know nothing."""
    limits = {"unsafe": 0.5, "categories": [0.5] * 19}
    told = {"calibration": Calibration.none().to_json(), "thresholds": limits, "plan": {"name": "untrained"}}
    folder.mkdir()
    GuardModel(resolve("all-minilm-l6-v2")).save(folder, told | {"encoder": "all-minilm-l6-v2"})
    return folder


def main() -> None:
    """Measure and print the table, and how many times as long the peers take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--guard", type=Path, help="folder that `poise guard train` wrote")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40, help="calls of an engine in a use; slow ones get fewer")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="32 texts of 512 tokens take 8 GB")
    parser.add_argument("--only", metavar="NAME", help="one engine alone, whose weights then stay in the cache")
    parser.add_argument("--out", type=Path, help="also write the timings as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poise-") as name:
        work = Path(name)
        with engines_of(given.guard or untrained(work / "guard"), work, given.threads) as guards:
            beside = peers(work, given.threads)
            tokenizer = beside["BERT-base onnx"].tokenizer

            def length(text: str) -> int:
                return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

            texts = {
                (tokens, batch): texts_of(tokens, batch, length) for tokens in given.tokens for batch in given.batches
            }
            judges: dict[str, Any] = {f"guard {name}": guard.judge for name, guard in guards.items()}
            judges |= {name: peer.judge for name, peer in beside.items()}
            if given.only is not None:
                judges = {name: judge for name, judge in judges.items() if name == given.only}
            load = os.getloadavg()[0]
            table = measure_engines(judges, texts, rounds=given.rounds)
    print(f"{processor()}, {given.threads} threads; load before {load:.2f}, after {os.getloadavg()[0]:.2f}")
    print("\n".join(lines(table)))
    for use in texts if given.only is None else ():
        found = {row.engine: row.p50 for row in table if (row.tokens, row.batch) == use}
        ours = min((value for name, value in found.items() if name.startswith("guard")), default=float("nan"))
        ratios = ", ".join(f"{n} {value / ours:.1f}" for n, value in found.items() if not n.startswith("guard"))
        print(f"{use[0]} tokens, batch {use[1]}: times as long as the guard's best engine: {ratios}")
    if given.out is not None:
        given.out.write_text(json.dumps([row._asdict() for row in table], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with in_one_line():
        main()
