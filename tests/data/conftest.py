"""Small invented corpora and the place of the real data, for the tests of the data room."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from poise.data.corpus import Corpus, pair_row
from poise.data.rows import Judgement, PromptRow, Provenance, QARow, Rater, label_value, text_id
from poise.harm import SAFE, Category, Label

RATER = Rater(id="rule", kind="rule", version="1")
HARM = Label.of([Category.S6, Category.S12], 2)


@pytest.fixture
def make_corpus() -> Callable[..., Corpus]:
    """A corpus of n prompts about different things; each has a safe, a harmful and another safe response."""

    def make(n: int = 6, test: int = 0) -> Corpus:
        things = ["teapots", "violins", "glaciers", "postcards", "beehives", "lighthouses", "sandals", "chess"]
        corpus = Corpus(raters=[RATER, Rater(id="Ann Example", kind="person")])
        for index in range(n):
            text = f"{things[index % 8] * (1 + index // 8)}: what should one know?"
            split = "test" if index < test else "train"
            made = Provenance(source="invented")
            prompt = PromptRow(id=text_id("p", text), prompt=text, kind="ordinary", split=split, provenance=made)
            corpus.prompts.append(prompt)
            answers = []
            for response, label in (("Ask a friend.", SAFE), ("Fight for it!", HARM), ("It is café.", SAFE)):
                qa_id = text_id("qa", text, response)
                answers.append(
                    QARow(id=qa_id, prompt_id=prompt.id, prompt=text, response=response, split=split, provenance=made)
                )
                value = label_value(label)
                corpus.judgements.append(Judgement(item=qa_id, question="label", value=value, rater="rule"))
            corpus.qa += answers
            for first, second in combinations(answers, 2):
                pair = pair_row(first, second)
                corpus.pairs.append(pair)
                safer = 1 if pair.qa_0 == answers[1].id else 0
                for question, value in (("better", 0), ("safer", safer), ("single", 1)):
                    corpus.judgements.append(
                        Judgement(item=pair.id, question=question, value=value, rater="Ann Example", reason="private")
                    )
        return corpus

    return make


@pytest.fixture
def real_data() -> Path:
    """The folder of the real sets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("POISE_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set POISE_DATA to the folder that holds the data sets")
    return folder
