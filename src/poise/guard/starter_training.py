"""Trains the starter rater; the command is `poise guard train-starter --data DIR`.

Sources are public sets whose licence permits commercial use (MIT, Apache-2.0, CC BY 4.0) and our own seeds; sets under
non-commercial terms (the PKU family, ToxicChat, AlpacaEval and others) are left out, so the weights can ship. Every
source is split by prompt cluster; the test side is only measured. The seeds' split is fixed, so that no recipe ever
evaluates on a seed prompt the rater has learnt from.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from poise.data import Corpus, latest, load_seeds, split_by_prompt, uniform_seed, with_splits
from poise.data.adapters import read
from poise.guard.starter import STARTER_ENCODER, StarterHeads, features
from poise.guard.targets import targets
from poise.metrics import auroc, binary_report
from poise.models.bundled import resolve
from poise.models.encoder import Encoder
from poise.models.heads import ModerationTargets, moderation_loss

QA_SOURCES = (
    "diasafety",
    "gptfuzz_labelled",
    "jbb_artifacts",
    "harmbench_response",
    "jailjudge_mini",
    "air_bench_sample",
    "openai_rbr_gold",
    "pyrit_severity",
    "xstest_completions",
)
PAIR_SOURCES = ("pandalm_human", "tulu_human_eval", "llmbar", "dpo_en_demo", "coconot_pref")
SEEDS = "poise-seeds"
TEST_SHARE = 0.25
MAX_ROWS = 2000  # of one source, so that no source drowns the others
SEED_WEIGHT = 4.0  # our rows are the only ones with all categories and levels
MAX_LENGTH, HIDDEN, EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 64, 30, 128, 2e-3, 0.05


@dataclass(frozen=True)
class Source:
    """One training source in features.

    Args:
        x: float[N, 4 H]; target: what it knows of each row; test: bool[N].
        pairs: int64[P, 2], rows (better, worse) of one prompt.
    """

    name: str
    x: Tensor
    target: ModerationTargets
    test: Tensor
    pairs: Tensor


def seed_splits() -> dict[str, Any]:
    """The fixed split of the seed prompts: the same in training the starter rater and in every recipe."""
    return split_by_prompt(load_seeds().prompts, TEST_SHARE, seed=0)


def train_starter(data: Path, out: Path, progress: Callable[..., Any]) -> dict[str, Any]:
    """Train on the sets found under `data`, measure on the test prompts, write weights, settings and metrics to `out`.

    Returns:
        Metrics by source: n, AUROC and F1 of unsafe (where the test rows have both classes), pair accuracy of
        helpfulness.

    Raises:
        PoiseError: a set is missing.
    """
    from safetensors.torch import save_file

    torch.manual_seed(0)
    encoder = Encoder(resolve(STARTER_ENCODER), max_length=MAX_LENGTH)
    corpora = {SEEDS: with_splits(load_seeds(), seed_splits())}
    for name in (*QA_SOURCES, *PAIR_SOURCES):
        corpus = _thin(read(name, data))
        corpora[name] = with_splits(corpus, split_by_prompt(corpus.prompts, TEST_SHARE, seed=0))
    with progress(sum(len(corpus.qa) for corpus in corpora.values()), unit="rows", what="encoding") as bar:
        sources = [_source(encoder, name, corpus, bar.update) for name, corpus in corpora.items()]
    heads = _fit(StarterHeads(encoder.width, HIDDEN), sources)
    metrics = {source.name: _measure(heads, source) for source in sources}
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in heads.state_dict().items()}, out / "heads.safetensors")
    settings = {"version": "1", "encoder": STARTER_ENCODER, "width": encoder.width, "hidden": HIDDEN}
    (out / "settings.json").write_text(json.dumps({**settings, "max_length": MAX_LENGTH}, indent=2) + "\n")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
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


def _source(encoder: Encoder, name: str, corpus: Corpus, on_rows: Callable[[int], object]) -> Source:
    x = features(encoder, [r.prompt for r in corpus.qa], [r.response for r in corpus.qa], on_rows)
    known = latest(corpus.judgements, "safe") | latest(corpus.judgements, "label")
    weight = SEED_WEIGHT if name == SEEDS else 1.0
    target = targets([r.id for r in corpus.qa], known, [weight] * len(corpus.qa))
    where = {row.id: i for i, row in enumerate(corpus.qa)}
    better = latest(corpus.judgements, "better")
    pairs = [
        (where[p.qa_0], where[p.qa_1]) if better[p.id].value == 0 else (where[p.qa_1], where[p.qa_0])
        for p in corpus.pairs
        if p.id in better and better[p.id].value is not None
    ]
    test = torch.tensor([row.split == "test" for row in corpus.qa])
    return Source(name, x, target, test, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2))


def _fit(heads: StarterHeads, sources: list[Source]) -> StarterHeads:
    offsets = np.cumsum([0, *(len(s.x) for s in sources)])[:-1].tolist()
    x = torch.cat([s.x for s in sources])
    train = ~torch.cat([s.test for s in sources])
    target = ModerationTargets(*(torch.cat([getattr(s.target, f) for s in sources]) for f in ModerationTargets._fields))
    pairs = torch.cat([s.pairs + offset for s, offset in zip(sources, offsets, strict=True)])
    pairs = pairs[train[pairs[:, 0]]]
    rows = (train & ~target.at_least[:, 0].isnan()).nonzero()[:, 0]
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    heads.train()
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        chosen = pairs[torch.randint(len(pairs), (BATCH,), generator=generator)]
        logits, _ = heads(x[batch])
        _, helpful = heads(x[chosen.reshape(-1)])
        better, worse = helpful.reshape(-1, 2).unbind(1)
        loss = (
            moderation_loss(logits, ModerationTargets(*(t[batch] for t in target))) - logsigmoid(better - worse).mean()
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return heads.eval()


@torch.inference_mode()
def _measure(heads: StarterHeads, source: Source) -> Mapping[str, float | int]:
    logits, helpful = heads(source.x)
    known = source.test & ~source.target.at_least[:, 0].isnan()
    result: dict[str, float | int] = {"rows_train": int((~source.test).sum()), "rows_test": int(known.sum())}
    score, truth = logits.at_least[known, 0], source.target.at_least[known, 0] > 0
    if truth.any() and not truth.all():
        report = binary_report(score.numpy(), truth.numpy(), 0.0)
        result |= {"auroc": round(auroc(score.numpy(), truth.numpy()), 4), "f1_unsafe": round(report.f1, 4)}
    pairs = source.pairs[source.test[source.pairs[:, 0]]] if len(source.pairs) else source.pairs
    if len(pairs):
        better, worse = helpful[pairs[:, 0]], helpful[pairs[:, 1]]
        result |= {"pairs_test": len(pairs), "helpful_accuracy": round(float((better > worse).float().mean()), 4)}
    return result
