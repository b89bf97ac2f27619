"""The guard of a finished run beside TF-IDF with logistic regression, on the same rows and the same split.

    POISE_DATA=DIR poise run recipes/real-pairs.yaml
    python benchmarks/guard_tfidf.py runs/real-pairs

Prints AUROC of "unsafe" on the test prompts of each source: the guard's from its own `metrics.json`, the peer trained
here on the train rows (word 1-2-grams of prompt and response, C = 1, as a plain user would set it up).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from poise.data import Corpus
from poise.errors import PoiseError, in_one_line
from poise.metrics import auroc
from poise.pipeline.stages.common import PEOPLE, final_judgements


def main() -> None:
    """Train the peer and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, help="run folder with stages annotate and guard")
    run = parser.parse_args().run
    folders = {stage: next(run.glob(f"*-{stage}"), None) for stage in ("annotate", "guard")}
    if None in folders.values():
        raise PoiseError("holds no run with stages annotate and guard", where=str(run), do="poise run RECIPE")
    corpus = Corpus.read(folders["annotate"] / "corpus")
    table = json.loads((folders["guard"] / "metrics.json").read_text())
    guard = {row["split"]: row for row in table if row["name"] == "guard"}
    final = final_judgements(corpus)
    judged = final["safe"] | final["label"]
    asked = final_judgements(corpus, PEOPLE)
    told = {item for q in ("safe", "label") for item, j in asked[q].items() if j.value is not None}
    rows = [r for r in corpus.qa if r.id in told and (j := judged.get(r.id)) is not None and j.value is not None]
    unsafe = np.array(
        [not (judged[r.id].value if judged[r.id].question == "safe" else judged[r.id].label().safe) for r in rows]
    )
    texts = [f"{r.prompt}\n{r.response}" for r in rows]
    test = np.array([r.split == "test" for r in rows])
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    x_train = vectors.fit_transform([t for t, held in zip(texts, test, strict=True) if not held])
    x_test = vectors.transform([t for t, held in zip(texts, test, strict=True) if held])
    model = LogisticRegression(max_iter=1000).fit(x_train, unsafe[~test])
    score = model.predict_proba(x_test)[:, 1]
    sources = np.array([r.provenance.source for r, held in zip(rows, test, strict=True) if held])
    print(f"{'source':24s} {'n':>6s} {'guard':>7s} {'TF-IDF':>7s}")
    for name in ["all", *sorted(set(sources))]:
        chosen = np.ones(len(sources), bool) if name == "all" else sources == name
        peer = auroc(score[chosen], unsafe[test][chosen])
        ours = guard[name]["auroc"] if name in guard else None
        print(f"{name:24s} {chosen.sum():6d} {ours if ours is None else round(ours, 3)!s:>7s} {peer:7.3f}")


if __name__ == "__main__":
    with in_one_line():
        main()
