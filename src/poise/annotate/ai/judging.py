"""Tables judged by models: the rows as they are, the judgements beside them, and what happened in `rater.json`.

The folder appears when every request has ended. What a model said before about the same question with the same rubric
is replaced, since the replies are the same; with another version of the rubric it stays, and the new answer is that
rater's next round.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from poise.annotate.ai.pairs import Flips
from poise.annotate.ai.rater import EndpointRater, OnFlip
from poise.annotate.ai.rubrics import AXES, Axis, label_rubric, pair_rubric
from poise.data.corpus import canonical_json
from poise.data.folders import disk_error, write_json
from poise.data.from_columns import record_of
from poise.data.records import JudgementRecord, QARecord, SingleRecord
from poise.data.tables import Table, Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import policy_version
from poise.llm.exchange import ChatRequest
from poise.llm.runner import OnEnd

_PAIR_UNITS = ("default", "pairs-extended", "single-dimension")
Rounds = Mapping[tuple[str, str], int]
"""(rater, question) -> round of the judgements to come."""


class Asker(Protocol):
    """A model that is asked through a runner: an `EndpointRater`, or a guard behind an endpoint."""

    @property
    def model(self) -> str:
        """Name that the servers know; also the rater's id."""
        ...

    def ask(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None) -> object:
        """Send what the store does not hold."""
        ...

    def report(self) -> dict[str, Any]:
        """Counts over all judgements given so far, as JSON."""
        ...


R = TypeVar("R", bound=Asker)
R_contra = TypeVar("R_contra", bound=Asker, contravariant=True)


class Task(Protocol[R_contra]):
    """What the raters are to do with tables."""

    @property
    def versions(self) -> dict[str, str]:
        """Question -> version of its rubric."""
        ...

    def requests(self, rater: R_contra, tables: Tables) -> Iterator[ChatRequest]:
        """What has to be answered."""
        ...

    def judgements(self, rater: R_contra, tables: Tables, rounds: Rounds, on_flip: OnFlip) -> Iterator[JudgementRecord]:
        """What the answers say."""
        ...


@dataclass(frozen=True)
class LabelTask:
    """A label for every response, those of pairs included; one that stands in several units is labelled once."""

    @property
    def versions(self) -> dict[str, str]:
        """See `Task`."""
        return {"label": label_rubric().version}

    def requests(self, rater: EndpointRater, tables: Tables) -> Iterator[ChatRequest]:
        """See `Task`."""
        return rater.label_requests(responses_of(tables))

    def judgements(
        self, rater: EndpointRater, tables: Tables, rounds: Rounds, on_flip: OnFlip
    ) -> Iterator[JudgementRecord]:
        """See `Task`; there are no flips."""
        return rater.labels(responses_of(tables), round_=rounds.get((rater.model, "label"), 0))


@dataclass(frozen=True)
class RankTask:
    """A choice for every pair on each axis.

    Args:
        axes: what to rank on.
        flips: what becomes of a pair whose two answers name different responses.
    """

    axes: tuple[Axis, ...] = AXES
    flips: Flips = "tie"

    @property
    def versions(self) -> dict[str, str]:
        """See `Task`."""
        return {axis: pair_rubric(axis).version for axis in self.axes}

    def requests(self, rater: EndpointRater, tables: Tables) -> Iterator[ChatRequest]:
        """See `Task`."""
        return rater.rank_requests(pairs_of(tables), self.axes)

    def judgements(
        self, rater: EndpointRater, tables: Tables, rounds: Rounds, on_flip: OnFlip
    ) -> Iterator[JudgementRecord]:
        """See `Task`."""

        def round_of(question: str) -> int:
            return rounds.get((rater.model, question), 0)

        return rater.rankings(pairs_of(tables), self.axes, self.flips, round_of=round_of, on_flip=on_flip)


def judge_tables(
    tables: Tables,
    out: Path,
    raters: Sequence[R],
    task: Task[R],
    *,
    replace: bool = False,
    on_end: OnEnd | None = None,
) -> tuple[Tables, dict[str, Any]]:
    """Ask all raters, one after the other, and write the rows with their judgements; returns these and `rater.json`.

    Pairs that flip are listed in `people.jsonl` when the task gives flips to people.

    Raises:
        PoiseError: two raters of one name, nothing to judge, the folder is in use, or what `EndpointRater.ask` raises.
    """
    models = [rater.model for rater in raters]
    if len(set(models)) < len(models):
        raise PoiseError("a model is named twice", where=", ".join(models), do="name each model once")
    step = {"name": "judge", "raters": models, "rubrics": task.versions}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        for rater in raters:
            rater.ask(task.requests(rater, tables), on_end)
        rounds, given = carry(tables, writer, models, task.versions), 0
        with _listed(writer, wanted=isinstance(task, RankTask) and task.flips == "person") as tell:
            for rater in raters:
                for judgement in task.judgements(rater, tables, rounds, partial(tell, rater.model)):
                    if judgement.rater_kind == "model" or rater is raters[0]:  # what follows from a rule follows once
                        writer.add(judgement)
                        given += 1
        if not given:
            raise PoiseError("nothing to judge", where=str(tables.folder), do="name tables with responses or pairs")
        report = {"policy": policy_version(), "raters": [rater.report() for rater in raters]}
        write_json(writer.parts / "rater.json", report)
    return open_tables(out), report


def responses_of(tables: Tables) -> Iterator[QARecord]:
    """Every response of the tables once, alone or out of a pair."""
    seen: set[tuple[str, int]] = set()
    alone = (record for record in _records(tables.get("qa")) if isinstance(record, QARecord))
    for record in itertools.chain(alone, itertools.chain.from_iterable(map(_sides, pairs_of(tables)))):
        key = record.item, len(record.prompt)  # the hash does not tell where the prompt ends
        if key not in seen:
            seen.add(key)
            yield record


def pairs_of(tables: Tables) -> Iterator[SingleRecord]:
    """Every pair of the tables once, those with labels first."""
    seen: set[tuple[str, str, int]] = set()
    for unit in _PAIR_UNITS:
        for record in _records(tables.get(unit)):
            if isinstance(record, SingleRecord) and (key := (*record.items, len(record.prompt))) not in seen:
                seen.add(key)
                yield record


def _records(table: Table | None) -> Iterator[object]:
    if table is None:
        return
    if table.unit != "pairs-extended":
        yield from table.records()
        return
    for batch in table.batches():  # dual pairs of which a part may be unknown
        yield from (record_of("default", row) for row in batch.to_pylist())


def _sides(pair: SingleRecord) -> Iterator[QARecord]:
    for text, source, sha256 in zip(pair.responses, pair.response_sources, pair.items, strict=True):
        yield QARecord(
            prompt=pair.prompt,
            response=text,
            prompt_source=pair.prompt_source,
            response_source=source,
            sha256=sha256,
            split=pair.split,
            turns=pair.turns,
            image=pair.image,
            dataset=pair.dataset,
        )


def carry(
    tables: Tables, writer: TableWriter, models: Sequence[str], versions: Mapping[str, str]
) -> dict[tuple[str, str], int]:
    """Write all rows but the judgements that are given again; returns the round of each (rater, question)."""
    rounds: Counter[tuple[str, str]] = Counter()
    for unit, table in tables.items():
        for batch in table.batches():
            if unit == "judgements":
                names = ("rater", "rater_kind", "rater_version", "question", "round")
                rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
                stays = pa.array([_stays(row, models, versions, rounds) for row in rows], pa.bool_())
                writer.write(unit, batch.filter(stays))
            else:
                writer.write(unit, batch)
    return dict(rounds)


def _stays(
    row: tuple[str, str, str, str, int],
    models: Sequence[str],
    versions: Mapping[str, str],
    rounds: Counter[tuple[str, str]],
) -> bool:
    rater, kind, version, question, turn = row
    if question not in versions:
        return True
    if kind == "rule" and rater == "logical-order":
        return False
    if kind != "model" or rater not in models:
        return True
    if version == versions[question]:
        return False
    rounds[rater, question] = max(rounds[rater, question], (turn or 0) + 1)
    return True


@contextmanager
def _listed(writer: TableWriter, *, wanted: bool) -> Iterator[Callable[[str, SingleRecord, Axis], None]]:
    """Where flips are told: each becomes a line of `people.jsonl`, or nothing when no list is wanted."""
    if not wanted:
        yield lambda *_: None
        return
    try:
        with (writer.parts / "people.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            yield lambda *flip: print(canonical_json(_for_person(*flip)), file=file)
    except OSError as error:
        raise disk_error(error, writer.folder) from error


def _for_person(model: str, record: SingleRecord, axis: Axis) -> dict[str, Any]:
    return {
        "item": ":".join(record.items),
        "question": axis,
        "rater": model,
        "turns": [{"role": turn.role, "content": turn.content} for turn in record.turns],
        "prompt": record.prompt,
        **{f"response_{i}": text for i, text in enumerate(record.responses)},
    }
