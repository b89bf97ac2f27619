"""Stage `guard`: a severity-aware moderation model from the train split, measured on the test split with baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from poise.data import uniform_seed
from poise.pipeline.context import StageContext
from poise.pipeline.progress import Meter
from poise.pipeline.stages.common import PEOPLE, Settings, final_judgements, model_source, read_corpus


class GuardSettings(Settings):
    """Fine-tuning of the encoder with its heads."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    head_learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    category_weight: float = Field(0.5, ge=0)
    calibration_share: float = Field(0.1, gt=0, lt=1, description="of the train prompts, for probabilities")
    people_only: bool = Field(False, description="only rows whose safe flag people gave; a model may have completed it")
    max_length: int = Field(128, ge=16, le=512)


def run(ctx: StageContext, settings: GuardSettings) -> dict[str, Any]:
    """Write `model/`, `metrics.json` (rows by source and model) and `test_scores.json` (for the calibration plot)."""
    from poise.errors import PoiseError
    from poise.guard.fit.apply import TrainedGuard
    from poise.guard.fit.model import GuardModel
    from poise.guard.fit.plan import TrainingPlan
    from poise.guard.fit.rows import row_of
    from poise.guard.fit.run import Watch, learn

    corpus = read_corpus(ctx, "annotate")
    final = final_judgements(corpus)
    judged = final["safe"] | final["label"]
    asked = final_judgements(corpus, PEOPLE) if settings.people_only else final
    told = {item for q in ("safe", "label") for item, j in asked[q].items() if j.value is not None}
    rows = [r for r in corpus.qa if r.id in told and (j := judged.get(r.id)) is not None and j.value is not None]
    train = [r for r in rows if r.split == "train"]
    test = [r for r in rows if r.split == "test"]
    if not train or not test:
        raise PoiseError(
            f"{len(train)} labelled train and {len(test)} test responses", where="guard", do="give more rows"
        )
    share = settings.calibration_share * 2**63
    held = [uniform_seed(ctx.seed, "guard calibration", r.prompt) < share for r in train]
    known = [row_of(r, judged[r.id], "train") for r in train]
    source = model_source(ctx, "encoder")
    model = GuardModel(source, max_length=settings.max_length, seed=ctx.seed)
    fields = settings.model_dump(exclude={"people_only", "max_length", "calibration_share"})
    with Meter() as meter:
        fitted = learn(
            model,
            [row for row, kept in zip(known, held, strict=True) if not kept],
            [row for row, kept in zip(known, held, strict=True) if kept],
            TrainingPlan(**fields),
            ctx.seed,
            checkpoint=ctx.scratch("guard.safetensors"),
            watch=Watch(step=lambda done, all_, loss: meter.show("training guard", "steps", done, all_, loss=loss)),
        )
    folder = ctx.path("model/config.json").parent
    model.save(
        folder, {"encoder": ctx.models["encoder"], **fitted.to_json(), "plan": {"name": f"guard-of-{ctx.recipe_name}"}}
    )
    with ctx.progress(len(test), unit="responses", what="testing guard") as bar:
        scores = TrainedGuard(folder).score(test, bar.update)
    table = measure_guard(test, scores, judged, [judged[r.id] for r in train])
    ctx.write_json("metrics.json", table)
    ctx.write_json("losses.json", fitted.losses)
    flags = [not _safe(judged[row.id]) for row in test]
    ctx.write_json("test_scores.json", {"prob": [s.unsafe if s else None for s in scores], "positive": flags})
    headline = table[0]
    ctx.log(f"test AUROC {headline['auroc']:.3f}, F1 {headline['f1']:.3f} on {headline['n']} responses")
    return {"train": len(train), "test": len(test), "metrics": table}


def measure_guard(test: Any, scores: Any, judged: Any, train: Any) -> list[dict[str, Any]]:
    """One row for the guard on all test rows, one for each source, and the two baselines a severity model must beat.

    "Always moderate" calls every response moderate; "category prior" knows the true categories and answers the
    severity that is most frequent for them in the training labels: severity is largely predictable from the category.
    """
    labels = [judged[row.id] for row in test]
    unsafe = np.array([not _safe(j) for j in labels])
    probability = np.array([np.nan if s is None else s.unsafe for s in scores])
    predicted = [None if s is None else s.label() for s in scores]
    groups: dict[str, list[int]] = {"all": list(range(len(test)))}
    for i, row in enumerate(test):
        groups.setdefault(row.provenance.source, []).append(i)
    if len(groups) == 2:
        groups = {"all": groups["all"]}
    table = []
    for name, chosen in groups.items():
        table.append(_row("guard", name, chosen, unsafe, probability, predicted, labels))
    prior = _category_prior(train)
    constant = [None if j.question != "label" else 2 for j in labels]
    by_category = [None if j.question != "label" else prior(j.label()) for j in labels]
    for name, severities in (("always moderate", constant), ("category prior (true categories)", by_category)):
        table.append({"name": name, "split": "all", "n": len(test)} | _severity(severities, labels))
    return table


def _row(
    name: str, split: str, chosen: list[int], unsafe: Any, probability: Any, predicted: Any, labels: Any
) -> dict[str, Any]:
    from poise.metrics import auroc, binary_report

    known = [i for i in chosen if not np.isnan(probability[i])]
    report = binary_report(probability[known], unsafe[known], 0.5)
    picked = [predicted[i] for i in known]
    truth = [labels[i] for i in known]
    full = [(p, t.label()) for p, t in zip(picked, truth, strict=True) if t.question == "label"]
    exact = [p.categories == t.categories for p, t in full]
    return {
        "name": name,
        "split": split,
        "n": len(known),
        "auroc": auroc(probability[known], unsafe[known]),
        "f1": report.f1,
        "precision": report.precision,
        "recall": report.recall,
        "fpr": report.fpr,
        "accuracy": report.accuracy,
        "exact_match": float(np.mean(exact)) if exact else None,
    } | _severity([int(p.severity) for p in picked], truth)


def _severity(severities: list[int | None], labels: Any) -> dict[str, Any]:
    from poise.metrics import macro_f1, quadratic_weighted_kappa

    known = [
        (p, int(t.label().severity))
        for p, t in zip(severities, labels, strict=True)
        if t.question == "label" and p is not None
    ]
    if not known:
        return {"severity_qwk": None, "severity_macro_f1": None}
    predicted, true = (np.array(column) for column in zip(*known, strict=True))
    kappa = quadratic_weighted_kappa(predicted, true, 4)
    return {
        "severity_qwk": None if np.isnan(kappa) else kappa,
        "severity_macro_f1": macro_f1(predicted, true, 4),
    }


def _category_prior(train: Any) -> Any:
    from collections import Counter

    counts: dict[Any, Counter[int]] = {}
    for judgement in train:
        if judgement.question == "label":
            label = judgement.label()
            for category in label.categories:
                counts.setdefault(category, Counter())[int(label.severity)] += 1

    def prior(label: Any) -> int:
        total: Counter[int] = Counter()
        for category in label.categories:
            total.update(counts.get(category, {}))
        return total.most_common(1)[0][0] if total else (0 if label.safe else 2)

    return prior


def _safe(judgement: Any) -> bool:
    return bool(judgement.value) if judgement.question == "safe" else judgement.label().safe
