"""Trains the helpfulness head; the command is `poise guard train-helpfulness --data DIR`.

Pairs are of public sets whose licence permits commercial use (MIT, Apache-2.0) and of our own seeds, so the weights can
ship. Public sets are split by prompt cluster, the seeds as the starter guard has them, so that no recipe ever evaluates
on a seed prompt that either has learnt from. The test side is only measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.data import Corpus, latest, load_seeds, split_by_prompt, uniform_seed, with_splits
from poise.data.adapters import read
from poise.data.folders import write_json
from poise.guard.helpfulness import ENCODER, HelpfulnessHead, features
from poise.guard.shipped import seed_splits
from poise.models.bundled import resolve
from poise.models.encoder import Encoder

SOURCES = ("pandalm_human", "tulu_human_eval", "llmbar", "dpo_en_demo", "coconot_pref")
SEEDS = "poise-seeds"
TEST_SHARE = 0.25
MAX_ROWS = 2000  # of one source, so that no source drowns the others
MAX_LENGTH, HIDDEN, STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 64, 1200, 128, 2e-3, 0.05


class Source(NamedTuple):
    """One source in features.

    Args:
        x: float[N, 4 H].
        pairs: int64[P, 2], rows (better, worse) of one prompt.
        test: bool[P].
    """

    x: Tensor
    pairs: Tensor
    test: Tensor


def train_helpfulness(data: Path, out: Path, progress: Callable[..., Any]) -> dict[str, dict[str, float | int]]:
    """Train on the sets found under `data`, measure on the test prompts, write weights, settings and metrics to `out`.

    Returns:
        By source: pairs to learn from, test pairs, and the share of these that the head ranks as people did.

    Raises:
        PoiseError: a set is missing.
    """
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = Encoder(resolve(ENCODER), max_length=MAX_LENGTH)
    corpora = {SEEDS: with_splits(load_seeds(), seed_splits())}
    for name in SOURCES:
        corpus = _thin(read(name, data))
        corpora[name] = with_splits(corpus, split_by_prompt(corpus.prompts, TEST_SHARE, seed=0))
    with progress(sum(len(corpus.qa) for corpus in corpora.values()), unit="rows", what="encoding") as bar:
        sources = {name: _source(encoder, corpus, bar.update) for name, corpus in corpora.items()}
    head = fit(HelpfulnessHead(encoder.width, HIDDEN), list(sources.values()))
    metrics = {name: measure(head, source) for name, source in sources.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, out / "head.safetensors")
    settings = {"encoder": ENCODER, "width": encoder.width, "hidden": HIDDEN, "max_length": MAX_LENGTH}
    (out / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    write_json(out / "metrics.json", metrics)
    return metrics


def _thin(corpus: Corpus) -> Corpus:
    """At most MAX_ROWS QA rows, whole prompts at a time, chosen by hash."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for row in corpus.qa:
        by_prompt[row.prompt_id].append(row.id)
    kept: set[str] = set()
    for prompt in sorted(by_prompt, key=lambda p: uniform_seed(0, p, "thin")):
        kept.update(by_prompt[prompt][: max(2, MAX_ROWS // 40)])
        if len(kept) >= MAX_ROWS:
            break
    qa = [row for row in corpus.qa if row.id in kept]
    pairs = [p for p in corpus.pairs if p.qa_0 in kept and p.qa_1 in kept]
    prompts = {row.prompt_id for row in qa}
    return Corpus([p for p in corpus.prompts if p.id in prompts], qa, pairs, corpus.judgements, corpus.raters)


def _source(encoder: Encoder, corpus: Corpus, on_rows: Callable[[int], object]) -> Source:
    x = features(encoder, [r.prompt for r in corpus.qa], [r.response for r in corpus.qa], on_rows)
    where = {row.id: i for i, row in enumerate(corpus.qa)}
    better = latest(corpus.judgements, "better")
    judged = [p for p in corpus.pairs if p.id in better and better[p.id].value is not None]
    pairs = [(where[p.qa_0], where[p.qa_1]) for p in judged]
    ordered = [pair if better[p.id].value == 0 else pair[::-1] for pair, p in zip(pairs, judged, strict=True)]
    test = torch.tensor([p.split == "test" for p in judged], dtype=torch.bool)
    return Source(x, torch.tensor(ordered, dtype=torch.long).reshape(-1, 2), test)


def fit(head: HelpfulnessHead, sources: list[Source], steps: int = STEPS) -> HelpfulnessHead:
    """Bradley-Terry on the training pairs of all sources together; returns the head in evaluation mode."""
    pieces = [s.x[s.pairs[~s.test]] for s in sources]  # each [P, 2, 4 H]
    x = torch.cat(pieces)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    head.train()
    for _ in range(steps):
        better, worse = head(x[torch.randint(len(x), (BATCH,), generator=generator)])[..., 0].unbind(1)
        loss = -logsigmoid(better - worse).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def measure(head: HelpfulnessHead, source: Source) -> dict[str, float | int]:
    """Pairs to learn from, test pairs, and the share of these ranked as people did (absent without any)."""
    found: dict[str, float | int] = {"pairs_train": int((~source.test).sum()), "pairs_test": int(source.test.sum())}
    if source.test.any():
        better, worse = head(source.x[source.pairs[source.test]])[..., 0].unbind(1)
        found["accuracy"] = round(float((better > worse).float().mean()), 4)
    return found
