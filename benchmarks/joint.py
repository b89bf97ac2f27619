"""Two simulated populations of people label our seeds through the store; does the joint report recover what they are?

    python benchmarks/joint.py --out work/joint                          # assist
    python benchmarks/joint.py --out work/joint --mode blind_then_reveal

Truth is what the authors of the seeds wrote. The model errs on 25 % of the responses. Careful people err on 10 % and
take one suggestion in ten unread; hasty people err on 20 % and take six in ten unread. An error is a label on the other
side of safe and unsafe, or with another severity. Nothing of this is about real people: it shows that the numbers of
`poise annotate joint` are those that went in. The stores stay in --out, one a population, for any further command.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARES = {"control_share": 0.3, "plant_share": 0.05, "audit_share": 0.5}
MODEL_ERROR = 0.25


@dataclass(frozen=True)
class Population:
    """People who take a suggestion unread with probability `bias`, and otherwise err with probability `error`."""

    name: str
    error: float
    bias: float


POPULATIONS = (Population("careful", 0.1, 0.1), Population("hasty", 0.2, 0.6))


def wrong(label: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A label that is not this one: half the time on the other side, half the time of another severity."""
    if label["severity"] and draw.random() < 0.5:
        return label | {"severity": draw.choice([level for level in (1, 2, 3) if level != label["severity"]])}
    if label["severity"]:
        return {"categories": [], "severity": 0}
    return {"categories": [f"S{draw.randint(1, 19)}"], "severity": draw.choice((1, 2))}


def seeds() -> dict[tuple[str, str], dict[str, Any]]:
    """(prompt, response) -> label of the authors."""
    from poise.data.seeds import load_seeds

    corpus = load_seeds()
    labels = {row.item: row.value for row in corpus.judgements if row.question == "label"}
    return {(row.prompt, row.response): labels[row.id] for row in corpus.qa}


def fill(folder: Path, mode: str, seed: int, truth: dict[tuple[str, str], dict[str, Any]]) -> Any:
    """A store of the seeds without labels, judged by the model."""
    from poise.annotate.store import AnnotationStore, JointPolicy, OverlapPolicy, import_tables
    from poise.data.records import QARecord
    from poise.data.rows import Rater
    from poise.data.tables import TableWriter, open_tables

    with TableWriter(folder / "rows", {"name": "seeds without labels"}, replace=True) as writer:
        for prompt, response in truth:
            writer.add(QARecord(prompt=prompt, response=response))
    (folder / "store.db").unlink(missing_ok=True)
    joint = JointPolicy.model_validate({"mode": mode, "suggester": "judge", "seed": seed, **SHARES})
    store = AnnotationStore.create(folder / "store.db", OverlapPolicy(seed=seed), joint=joint)
    import_tables(store, open_tables(folder / "rows"))
    return store, store.rater(Rater(id="judge", kind="model", version="simulated"))


def label_all(store: Any, model: int, population: Population, truth: dict[Any, Any], people: int, seed: int) -> None:
    """The model, then everybody in turn, then the lead about what is audited or disputed."""
    import sqlalchemy as sa

    from poise.data.rows import Rater

    draw, tokens = random.Random(f"{population.name} {seed}"), itertools.count()
    model_draw = random.Random(f"model {seed}")

    def token() -> str:
        return f"t{next(tokens)}"

    def label_of(task: Any) -> dict[str, Any]:
        right = truth[task.prompt, task.responses[0]]
        own = wrong(right, draw) if draw.random() < population.error else right
        if task.suggestion is not None and draw.random() < population.bias:
            return dict(task.suggestion["label"])
        return own if task.before is None else dict(task.before["label"])

    query = "select i.id, p.body, a.body from item i join text p on p.id = i.prompt join text a on a.id = i.response_0"
    with store.database.read() as db:
        items = db.execute(sa.text(query + " where i.kind = 'qa' order by i.id")).all()

    for item, prompt, response in items:
        right = truth[json.loads(prompt), json.loads(response)]
        said = wrong(right, model_draw) if model_draw.random() < MODEL_ERROR else right
        store.judge(model, item, {"label": said}, token=token())
    raters = [store.rater(Rater(id=f"{population.name}-{n}", kind="person")) for n in range(people)]
    lead, idle = store.rater(Rater(id="lead", kind="person")), 0
    for rater in itertools.cycle(raters):
        task = store.next_task(rater, ["qa"])
        idle = idle + 1 if task is None else 0
        while task is not None:
            task = store.submit(rater, task.token, {"label": label_of(task)}, token=token()).task
        if idle == people:
            break
    while (task := store.next_task(lead, ["qa"], adjudicate=True)) is not None:
        store.submit(lead, task.token, {"label": truth[task.prompt, task.responses[0]]}, token=token())


def main() -> None:
    """Both populations, each in a store of its own."""
    parser = argparse.ArgumentParser(description="Does the joint report recover what simulated people are?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mode", choices=("assist", "blind_then_reveal"), default="assist")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    from poise.annotate.joint import report

    truth = seeds()
    print(f"{told.mode}, {len(truth)} responses, {told.people} people; known value, then estimate [95 %]")
    for population in POPULATIONS:
        folder = told.out / population.name
        folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        store, model = fill(folder, told.mode, told.seed, truth)
        with store:
            label_all(store, model, population, truth, told.people, told.seed)
            found = report(store)
        (question,) = found["questions"]
        (whole,) = [v for v in question["variables"] if v["name"] == "severity"]
        print(f"{population.name}: {question['answers']} answers, {time.time() - started:.0f} s, {folder / 'store.db'}")
        known = {
            "error of people": (population.error, _flipped(whole["accuracy"]["person alone"])),
            "error of the model": (MODEL_ERROR, _flipped(whole["accuracy"]["model judge"])),
            "pull": (population.bias, whole["pull"]),
        }
        for name, (value, one) in known.items():
            held = "" if one["low"] <= value <= one["high"] else "  outside"
            print(f"    {name:20s} {value:.3f}  {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]{held}")


def _flipped(one: dict[str, Any]) -> dict[str, Any]:
    return {"value": 1 - one["value"], "low": 1 - one["high"], "high": 1 - one["low"]}


if __name__ == "__main__":
    main()
