"""What a guard can do on rows that it was not trained on, set by set, beside TF-IDF with logistic regression.

Severity is measured where it is known, beside two baselines: always moderate, and the commonest level of the row's true
categories in training (papers' numbers are often no better). All intervals are bootstraps over rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from poise import metrics
from poise.guard.fit.rows import Row
from poise.harm import CATEGORIES
from poise.models.heads import K

Floats = NDArray[np.float64]


def set_table(
    rows: Sequence[Row], unsafe: Floats, threshold: float, levels: NDArray[np.int64] | None = None
) -> list[dict[str, Any]]:
    """One entry a set and kind (prompts, answers): AUROC, AUPRC, ECE; F1, recall and FPR at the threshold and, as
    `even_odds`, where unsafe is likelier than not; with intervals.

    Args:
        rows: N of them.
        unsafe: P(severity >= 1) of each, shape (N,).
        threshold: from which a row counts as unsafe.
        levels: severity of each verdict, shape (N,); adds F1, recall and FPR of who blocks from each level on.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        if row.unsafe is not None:
            groups.setdefault((row.source, "prompts" if row.response is None else "answers"), []).append(i)
    table = []
    for (source, kind), chosen in sorted(groups.items()):
        score = unsafe[chosen]
        positive = np.array([bool(rows[i].unsafe) for i in chosen])
        entry: dict[str, Any] = {"set": source, "kind": kind, "n": len(chosen), "unsafe": int(positive.sum())}
        report = metrics.binary_report(score, positive, threshold)
        entry |= {"f1": report.f1, "recall": report.recall, "fpr": report.fpr, "ece": metrics.ece(score, positive)}
        entry["even_odds"] = _at(score >= 0.5, positive)
        if levels is not None:
            entry["block_at"] = {
                name: _at(levels[chosen] >= level, positive)
                for level, name in ((1, "minor"), (2, "moderate"), (3, "severe"))
            }
        if 0 < positive.sum() < len(positive):
            low, high = _interval(score, positive, metrics.auroc)
            entry |= {"auroc": metrics.auroc(score, positive), "low": low, "high": high}
            f1 = _interval(score, positive, lambda s, p: metrics.binary_report(s, p, threshold).f1)
            entry |= {"f1_low": f1[0], "f1_high": f1[1]}
            entry["auprc"] = metrics.average_precision(score, positive)
        table.append({name: _plain(value) for name, value in entry.items()})
    return table


def severity_table(rows: Sequence[Row], train: Sequence[Row], levels: NDArray[np.int64]) -> dict[str, Any] | None:
    """Severity where all of it is known, of sets that grade harm: macro-F1, kappa, MAE, recall of severe, baselines.

    Args:
        levels: predicted severity of each row, shape (N,).

    Without graded training rows there is no category prior.
    """
    graded = {row.source for row in rows if row.at_least[0] == 1.0 and _level(row) is not None}
    known = [i for i, row in enumerate(rows) if row.source in graded and _level(row) is not None]
    if not known:
        return None
    true = np.array([_level(rows[i]) for i in known])
    said = levels[known]
    by_set: dict[tuple[int, ...], Counter[int]] = {}
    for row in train:
        if (level := _level(row)) is not None:
            by_set.setdefault(_named(row), Counter())[level] += 1
    overall: Counter[int] = sum(by_set.values(), Counter())
    harmful: Counter[int] = sum((levels for named, levels in by_set.items() if named), Counter())
    guesses = {"guard": said, "always moderate": np.full_like(true, 2)}
    if overall:
        prior = [(by_set.get(_named(rows[i])) or harmful or overall).most_common(1)[0][0] for i in known]
        guesses["category prior"] = np.array(prior)
    found: dict[str, Any] = {"n": len(known), "levels": np.bincount(true, minlength=4).tolist()}
    for name, guess in guesses.items():
        severe = true == 3
        found[name] = {
            "macro_f1": metrics.macro_f1(guess, true, 4),
            "kappa": _plain(metrics.quadratic_weighted_kappa(guess, true, 4)),
            "mae": metrics.mae(guess, true),
            "recall_severe": _plain(float((guess[severe] == 3).mean())) if severe.any() else None,
            "severe_called_none": int((guess[severe] == 0).sum()),
            "macro_f1_within_category": _plain(_within([rows[i] for i in known], guess, true)),
        }
    return found


def _within(rows: Sequence[Row], guess: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Mean over categories of macro-F1 of the levels 1..3 of the unsafe rows that have it, where 10 of them differ.

    A guess from the category alone can say but one level here, so this is what reading the text adds.
    """
    named = np.array([row.categories for row in rows]) > 0.5
    scores = []
    for k in range(named.shape[1]):
        chosen = named[:, k] & (true > 0)
        if chosen.sum() >= 10 and len(set(true[chosen])) > 1:
            present = sorted(set(true[chosen]))
            scores.append(float(np.mean([_f1(guess[chosen] == level, true[chosen] == level) for level in present])))
    return float(np.mean(scores)) if scores else float("nan")


def _f1(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float(2 * (said & true).sum() / max(1, said.sum() + true.sum()))


def category_table(rows: Sequence[Row], probability: Floats) -> list[dict[str, Any]]:
    """AUROC and average precision of each category where at least 10 rows have it and 10 do not.

    Args:
        probability: of each row and category, shape (N, 19).
    """
    target = np.array([row.categories for row in rows])
    table = []
    for k, category in enumerate(CATEGORIES):
        known = ~np.isnan(target[:, k])
        positive = target[known, k] > 0.5
        if min(positive.sum(), (~positive).sum()) >= 10:
            score = probability[known, k]
            table.append(
                {
                    "category": category.code,
                    "n": int(known.sum()),
                    "positive": int(positive.sum()),
                    "auroc": metrics.auroc(score, positive),
                    "ap": metrics.average_precision(score, positive),
                }
            )
    return table


def tfidf_scores(train: Sequence[Row], rows: Sequence[Row]) -> Floats | None:
    """P(unsafe) by TF-IDF (words, 1-2-grams of prompt and answer) with logistic regression on the same training rows.

    None where these hold not both kinds, or no word twice. Needs scikit-learn (the extra `bench`).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    known = [row for row in train if row.unsafe is not None]
    if len({row.unsafe for row in known}) < 2:
        return None
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        x = vectors.fit_transform([_text(row) for row in known])
    except ValueError:  # no word is left
        return None
    model = LogisticRegression(max_iter=1000).fit(x, [bool(row.unsafe) for row in known])
    score: Floats = model.predict_proba(vectors.transform([_text(row) for row in rows]))[:, 1]
    return score


def _text(row: Row) -> str:
    return row.prompt if row.response is None else f"{row.prompt}\n{row.response}"


def _level(row: Row) -> int | None:
    """The level that the source states; None where it states none, or only odds."""
    return int(sum(row.at_least)) if set(row.at_least) <= {0.0, 1.0} else None


def _named(row: Row) -> tuple[int, ...]:
    """The true categories; K, which is none, where a row is unsafe and its source names none."""
    return tuple(k for k, value in enumerate(row.categories) if value > 0.5) or ((K,) if row.unsafe else ())


def _at(blocked: NDArray[np.bool_], positive: NDArray[np.bool_]) -> dict[str, float | None]:
    report = metrics.binary_report(blocked.astype(float), positive, 0.5)
    return {name: _plain(value) for name, value in (("f1", report.f1), ("recall", report.recall), ("fpr", report.fpr))}


def _interval(
    score: Floats,
    positive: NDArray[np.bool_],
    statistic: Callable[[Floats, NDArray[np.bool_]], float],
    resamples: int = 200,
) -> tuple[float, float]:
    chance = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        chosen = chance.integers(len(score), size=len(score))
        if 0 < positive[chosen].sum() < len(chosen):
            drawn.append(statistic(score[chosen], positive[chosen]))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _plain(value: Any) -> Any:
    """NaN as None, so that it is JSON."""
    return None if isinstance(value, float) and np.isnan(value) else value
