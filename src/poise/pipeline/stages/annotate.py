"""Stage `annotate`: the starter rater labels every response and ranks every pair; the logical order is enforced.

All judgements also stand in `annotations.db`, an annotation store in which people can go on (see
`poise.pipeline.annotations`). Its events have no time, so that the same seed gives the same bytes; the manifest has it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import PRECEDENCE, Settings, final_judgements, read_corpus, write_corpus

if TYPE_CHECKING:
    from poise.data import Corpus

FILE = "annotations.db"


class AnnotateSettings(Settings):
    """Nothing to set: the rater is the shipped starter rater."""


def run(ctx: StageContext, settings: AnnotateSettings) -> dict[str, Any]:
    """Write `corpus/`: texts with judgements of people, rater and logical order; the same judgements to the store."""
    from poise.annotate import label_judgement, pair_judgements
    from poise.data import Judgement, Rater, latest
    from poise.guard.starter import StarterRater

    corpus = read_corpus(ctx, "sources", "responses")
    rater = StarterRater()
    with ctx.progress(len(corpus.qa), unit="responses", what="labelling") as bar:
        scores = dict(zip((row.id for row in corpus.qa), rater.score(corpus.qa, bar.update), strict=True))
    flags = final_judgements(corpus)["safe"]
    known = {item: j.value for item, j in flags.items() if j.value is not None}
    undecided = {item for item, j in flags.items() if j.value is None}
    new: list[Judgement] = [
        label_judgement(row.id, scores[row.id], rater.rater.id, known_safe=known.get(row.id))
        for row in corpus.qa
        if row.id not in undecided
    ]
    labels = {
        item: j.label()
        for item, j in latest([*corpus.judgements, *new], "label", PRECEDENCE).items()
        if j.value is not None
    }
    for pair in corpus.pairs:
        score_0, score_1 = scores[pair.qa_0], scores[pair.qa_1]
        if score_0 is None or score_1 is None or pair.qa_0 not in labels or pair.qa_1 not in labels:
            continue
        new += pair_judgements(pair, (labels[pair.qa_0], labels[pair.qa_1]), (score_0, score_1), rater.rater.id)
    corpus.judgements += new
    corpus.raters += [rater.rater, Rater(id="logical-order", kind="rule", version="1")]
    unjudged = sum(j.value is None for j in new) + len(undecided)
    unsafe = sum(not label.safe for label in labels.values())
    ctx.log(f"{len(labels)} responses labelled, {unsafe} unsafe, {unjudged} unjudged; {len(corpus.pairs)} pairs ranked")
    told = {"labelled": len(labels), "unsafe": unsafe, "unjudged": unjudged, "log": _write_store(ctx, corpus)}
    return write_corpus(ctx, corpus) | told


def _write_store(ctx: StageContext, corpus: Corpus) -> dict[str, int]:
    """Write `annotations.db`, anew in every attempt; returns counts of its items, its events and what it left out.

    Every response and pair is asked of one person, of two where they or the rater disagree.
    """
    from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
    from poise.data import Final, corpus_tables

    work = ctx.scratch("store")
    shutil.rmtree(work, ignore_errors=True)
    tables = corpus_tables(corpus, Final.of(corpus, PRECEDENCE), work / "tables")
    policy = OverlapPolicy(people=1, more=2, seed=ctx.seed)
    with AnnotationStore.create(work / FILE, policy, clock=lambda: 0.0) as store:
        counts = import_tables(store, tables)
    (work / FILE).replace(ctx.path(FILE))
    return counts
