"""Tables into a store: every response becomes a QA item, every pair a pair and a single preference.

Labels and choices that stand in the rows become judgements of kind "import" by a rater named after the data set, unless
the tables bring the judgements behind them: then those are taken, each under its own rater. Rows that contradict each
other about one item leave it unjudged by that rater; one that is unjudged contradicts nothing. All of it is one
transaction: a killed import leaves nothing, and importing the same tables again adds nothing. A row does not tell a tie
from a missing choice, so neither is imported.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from poise.annotate.store import schema
from poise.annotate.store.answers import checked_value
from poise.annotate.store.bulk import settle_new
from poise.annotate.store.database import refresh_statistics
from poise.annotate.store.intake import Intake, Source, Stored, pair_source, qa_source, thread_key
from poise.annotate.store.log import ORDER, Entry, Log
from poise.annotate.store.lookup import Found, Named, find_items
from poise.annotate.store.overlap import Value
from poise.annotate.store.settle import Settler, name_categories
from poise.annotate.store.store import AnnotationStore
from poise.data.corpus import canonical_json
from poise.data.from_columns import record_of
from poise.data.reading import Progress
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord, SingleRecord
from poise.data.rows import Rater
from poise.data.tables import Tables
from poise.errors import PoiseError
from poise.harm import Category
from poise.harm.taxonomy import PKU

BATCH = 2048
ROW = Rater(id="imported", kind="import")
"""Who stands for the labels of rows that name no data set."""
_CONTRADICT = "rows contradict each other"
_UNITS = ("qa", "default", "pairs-extended", "single-dimension")


def import_tables(
    store: AnnotationStore, tables: Tables, *, singles: bool = True, progress: Progress | None = None
) -> dict[str, int]:
    """Add all rows; returns counts of new items by kind, of events, and of judgements that were left out.

    Args:
        singles: also ask for the single preference of pairs that come from dual rows.
        progress: hears of rows read.

    Raises:
        PoiseError: the tables hold nothing that is judged.
    """
    if not any(unit in tables for unit in _UNITS):
        raise PoiseError(
            "no responses and no pairs", where=str(tables.folder), do=f"name tables with {', '.join(_UNITS)}"
        )
    with store.database.write() as connection:
        importer = _Importer(store, connection, tables, singles=singles, progress=progress)
        return importer.run()


class _Importer:
    def __init__(
        self,
        store: AnnotationStore,
        connection: sa.Connection,
        tables: Tables,
        *,
        singles: bool,
        progress: Progress | None,
    ) -> None:
        self._db, self._tables, self._singles, self._progress = connection, tables, singles, progress
        self._log, self._intake = Log(connection, store.now_ms()), Intake(connection)
        self._settler, self._policy = Settler(self._log, store.policy, store.joint), store.policy
        self._joint = store.joint
        self._new: dict[int, tuple[str, str]] = {}
        self._said: dict[tuple[int, str, int], tuple[str, int]] = {}
        self._disputed: set[int] = set()
        self._hints: set[tuple[int, str]] = set()
        self._choices: list[tuple[int, tuple[str, str], str, int, Value]] = []
        self._old: set[int] = set()
        self._values: dict[str, Any] = {}
        self._raters: dict[tuple[str, str, str], int] = {}
        self._counts: Counter[str] = Counter()
        self._by_rows = "judgements" not in tables

    def run(self) -> dict[str, int]:
        self._log.note_edition()
        before = self._log.seq
        for unit in _UNITS:
            for number, records in enumerate(self._batches(unit)):
                if not number & (number - 1):
                    refresh_statistics(self._db)
                self._take(records)
        refresh_statistics(self._db)
        self._judged(("label", "safe"))
        self._log.flush()
        refresh_statistics(self._db)
        self._write_hints()
        self._settle("qa")
        for item, named, question, rater, value in self._choices:
            self._choose(item, named, question, rater, value)
        self._judged(("better", "safer", "single"))
        self._log.flush()
        refresh_statistics(self._db)
        self._settle("pair")
        self._settle("single")
        self._planned()
        self._counts["events"] = self._log.seq - before
        return dict(self._counts)

    def _batches(self, unit: str, questions: tuple[str, ...] = ()) -> Iterator[list[Any]]:
        """Records of a unit; of judgements those that answer one of the questions."""
        if unit not in self._tables:
            return
        kind = "default" if unit == "pairs-extended" else unit
        for batch in self._tables[unit].batches(size=BATCH):
            yield [record_of(kind, row) for row in batch.to_pylist() if not questions or row["question"] in questions]
            if self._progress is not None:
                self._progress(batch.num_rows, unit)

    def _take(self, records: list[Any]) -> None:
        if isinstance(records[0], QARecord):
            sources = [qa_source(record) for record in records]
            for record, stored in zip(records, self._add(sources), strict=True):
                self._row_label(record, stored, record.label)
            return
        dual = isinstance(records[0], DualRecord)
        sources = [pair_source(record, "pair" if dual else "single") for record in records]
        sides: list[tuple[int, int] | None] | None = None
        if dual:
            found = [self._add([source.side(i) for source in sources]) for i in (0, 1)]
            sides = [(first.id, second.id) for first, second in zip(*found, strict=True)]
            for record, *pair in zip(records, *found, strict=True):
                for label, side in zip(record.labels, pair, strict=True):
                    self._row_label(record, side, label)
        for record, stored in zip(records, self._add(sources, sides), strict=True):
            for question, chosen in self._row_choices(record):
                self._keep_choice(stored, sources[0].kind, question, self._rater(record.dataset), chosen)
        if dual and self._singles:
            self._add([pair_source(record, "single") for record in records], sides)

    def _add(self, sources: list[Source], sides: list[tuple[int, int] | None] | None = None) -> list[Stored]:
        found = self._intake.add(sources, sides)
        for source, stored in zip(sources, found, strict=True):
            if stored.new:
                self._new[stored.id] = source.kind, stored.key
                self._counts[source.kind] += 1
        return found

    def _rater(self, dataset: str | None) -> int:
        return self._known_rater(ROW if dataset is None else Rater(id=dataset, kind="import"))

    def _known_rater(self, rater: Rater) -> int:
        named = rater.id, rater.kind, rater.version
        if named not in self._raters:
            self._raters[named] = self._log.rater(rater)
        return self._raters[named]

    def _row_label(self, record: QARecord | SingleRecord, stored: Stored, label: PartialLabel) -> None:
        if not self._by_rows:
            return
        named = ("qa", stored.key)
        if (value := whole_label(label)) is not None:
            self._say(stored.id, named, "label", self._rater(record.dataset), value)
        elif label.safe is not None:
            self._say(stored.id, named, "safe", self._rater(record.dataset), label.safe)

    def _row_choices(self, record: SingleRecord) -> list[tuple[str, int]]:
        if not self._by_rows:
            return []
        told = {"better": record.better, "safer": record.safer} if isinstance(record, DualRecord) else {}
        told = told or {"single": record.better}
        return [(question, chosen) for question, chosen in told.items() if chosen in (0, 1) and chosen is not None]

    def _keep_choice(self, stored: Stored, kind: str, question: str, rater: int, chosen: int) -> None:
        value = {"choice": 1 - chosen if stored.swapped else chosen, "strength": None}
        self._choices.append((stored.id, (kind, stored.key), question, rater, value))

    def _say(self, item: int, named: tuple[str, str], question: str, rater: int, value: Any, **extra: Any) -> None:
        """Log an imported judgement once; one that contradicts an earlier one leaves the item unjudged."""
        told = canonical_json(value)
        where = item, question, rater
        old = self._said.get(where) or self._before(where)
        if old is not None and (told == "null" or old[0] in (told, _CONTRADICT)):
            self._said[where] = old
            return
        contradicts = old is not None and old[0] != "null"
        stands = None if contradicts else value
        extra |= {"reason": _CONTRADICT, "pins": None} if contradicts else {}
        token = hashlib.sha256(f"{named}{question}{rater}{told}".encode()).hexdigest()
        entry = Entry("import", item, question, rater, f"import:{token}", stands, **extra)
        seq = self._log.collect(entry, named)
        self._said[where] = (_CONTRADICT if contradicts else told), seq
        if question == "label" and stands is not None:
            self._hints.update((item, code) for code in stands["categories"])
        if item not in self._new:
            self._old.add(item)
        elif old is not None:
            self._disputed.add(item)

    def _before(self, where: tuple[int, str, int]) -> tuple[str, int] | None:
        """What an earlier import said: a value, "null", or that rows contradict each other."""
        item, question, rater = where
        if item in self._new:
            return None
        query = sa.text(
            f"select coalesce(value, case reason when '{_CONTRADICT}' then reason else 'null' end), seq from event "
            "where item = :item and question = :asked and rater = :rater and kind = 'import' order by seq desc limit 1"
        )
        row = self._db.execute(query, {"item": item, "asked": question, "rater": rater}).first()
        return None if row is None else (row[0], row[1])

    def _choose(
        self, item: int, named: tuple[str, str], question: str, rater: int, value: Value | None, **extra: Any
    ) -> None:
        """Log an imported choice; "safer" pins the labels that stand, and is left out where they decide it."""
        if question == "safer" and (pair := self._settled_pair(item)) is not None:
            if pair["decided"]:
                self._counts["left out, decided by the order"] += 1
                return
            extra["pins"] = pair["pins"]
        self._say(item, named, question, rater, value, **extra)

    def _settled_pair(self, item: int) -> dict[str, Any] | None:
        query = sa.text(
            "select a.value as value_0, b.value as value_1, a.version as version_0, b.version as version_1 from item i "
            "join final a on a.item = i.qa_0 and a.question = 'label' and a.settled and a.value is not null "
            "join final b on b.item = i.qa_1 and b.question = 'label' and b.settled and b.value is not null "
            "where i.id = :item"
        )
        row = self._db.execute(query, {"item": item}).mappings().first()
        if row is None:
            return None
        safe = ['"severity":0' in row[name] for name in ("value_0", "value_1")]
        return {"decided": safe[0] != safe[1], "pins": (row["version_0"], row["version_1"])}

    def _judged(self, questions: tuple[str, ...]) -> None:
        """The judgements that the tables bring, about items that stand in them."""
        for records in self._batches("judgements", questions):
            asked = [record for record in records if not _by_order(record)]
            found = find_items(self._db, [_named(record) for record in asked])
            for record in asked:
                self._judgement(record, found.get(_named(record)))

    def _judgement(self, record: JudgementRecord, found: Found | None) -> None:
        told = canonical_json([record.question, record.value, (record.provenance or {}).get("choice")])
        if told not in self._values:
            self._values[told] = _judged_value(record)
        value = self._values[told]
        if found is None or (record.value is not None and value is None):
            self._counts["left out, item or value unknown"] += 1
            return
        if found.swapped and isinstance(value, dict) and value.get("choice") in (0, 1):
            value = value | {"choice": 1 - value["choice"]}
        rater = self._known_rater(Rater(id=record.rater, kind=record.rater_kind, version=record.rater_version))
        reason = (record.provenance or {}).get("reason")
        extra = {"policy": record.policy, "reason": reason if isinstance(reason, str) else None}
        named = _named(record)[0], found.key
        say = self._say if named[0] == "qa" else self._choose
        say(found.id, named, record.question, rater, value, **extra)

    def _write_hints(self) -> None:
        if fresh := [{"item": item, "category": code} for item, code in sorted(self._hints) if item in self._new]:
            self._db.execute(sa.insert(schema.hint), fresh)
        for item, code in sorted(self._hints):
            if item not in self._new:
                name_categories(self._db, item, [code])

    def _settle(self, kind: str) -> None:
        """Work out what follows: simple new items all at once, the others one by one."""
        said: dict[int, list[tuple[str, int, int]]] = {}
        for (item, question, rater), (_, seq) in self._said.items():
            if question != "safe":
                said.setdefault(item, []).append((question, rater, seq))
        hard = settle_new(
            self._db,
            self._policy,
            [(item, key) for item, (of, key) in self._new.items() if of == kind],
            kind,
            {item: told for item, told in said.items() if item not in self._disputed},
            self._disputed,
            self._joint,
        )
        for item in hard:
            self._settler.settle(item)
        for item in sorted(self._old):
            self._settler.settle(item)
        self._old.clear()

    def _planned(self) -> None:
        """What prompts were written for counts as a hint about their answers."""
        insert = sa.text(
            "insert into hint (item, category) select i.id, :category from item i where i.thread = :thread and "
            "i.kind = 'qa' and not exists (select 1 from hint h where h.item = i.id and h.category = :category)"
        )
        for records in self._batches("prompt"):
            for record in records:
                assert isinstance(record, PromptRecord)
                if record.category is not None and (code := _code(record.category)) is not None:
                    turns = [{"role": turn.role, "content": turn.content} for turn in record.turns]
                    thread = thread_key(turns, record.image, canonical_json(record.prompt))
                    self._db.execute(insert, {"category": code, "thread": thread})


def _by_order(record: JudgementRecord) -> bool:
    return (record.rater, record.rater_kind) == (ORDER.id, ORDER.kind)


def _named(record: JudgementRecord) -> Named:
    """Kind of what was judged, and its hashes."""
    kind = "single" if record.question == "single" else "pair" if len(record.responses) > 1 else "qa"
    return kind, record.responses


def _code(name: str) -> str | None:
    try:
        return Category.parse(name).code
    except ValueError:
        return None


def whole_label(label: PartialLabel) -> Value | None:
    """The label where all of it is known and it agrees with itself."""
    if label.categories is None or label.undecided or label.severity is None or label.taxonomy != PKU:
        return None
    try:
        return checked_value("label", {"categories": label.categories, "severity": label.severity})
    except PoiseError:
        return None


def _judged_value(record: JudgementRecord) -> Any:
    """The value of a judgement in the store's form, None where it has none or does not fit."""
    value = record.value
    if record.question == "safe":
        return value if isinstance(value, bool) else None
    if record.question == "label" and isinstance(value, dict):
        value = {name: value.get(name) for name in ("categories", "severity")}
    if record.question != "label" and isinstance(made := (record.provenance or {}).get("choice"), dict):
        value = made
    try:
        return checked_value(record.question, value)
    except PoiseError:
        return None
