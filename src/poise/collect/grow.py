"""Fill the grid: import what is there, then have models write for the emptiest cells, round after round.

Every request is a function of (seed, cell, source, number of the attempt), so a run over stored replies comes to the
same prompts, and a killed one asks only what is missing. A reply becomes a prompt when it is clear (a length, words, no
refusal, the language asked for) and no near-duplicate of any prompt kept before. Whether it really belongs to its cell
is not decided here; that is what labels are for.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from poise.collect.grid import Cell, Grid
from poise.collect.lineage import Node, sampling_json
from poise.collect.operations import Operation, OperationName, Parent, Written
from poise.collect.plan import PromptPlan, PromptSource
from poise.collect.quality import garbled, language_of, refuses, words_of
from poise.data import PromptRow, Sampling, drop_near_duplicates, text_id, uniform_seed
from poise.data.records import PromptRecord, Turn
from poise.harm import Category, Severity
from poise.harm.taxonomy import PKU
from poise.llm import Endpoint

LANGUAGES = {
    "Arabic": "ar", "Bengali": "bn", "Chinese": "zh", "Dutch": "nl", "English": "en", "French": "fr", "German": "de",
    "Hindi": "hi", "Italian": "it", "Japanese": "ja", "Javanese": "jv", "Korean": "ko", "Polish": "pl",
    "Portuguese": "pt", "Russian": "ru", "Spanish": "es", "Swahili": "sw", "Thai": "th", "Turkish": "tr",
    "Ukrainian": "uk", "Vietnamese": "vi",
}  # fmt: skip
"""English name -> ISO 639-1 code; what is written in another language by name is not checked."""

_LEAD = re.compile(r"^\s*(?:\d+[.)]\s*|(?:new |rewritten )?(?:message|prompt)\s*:\s*|user\s*:\s*)+", re.IGNORECASE)
_SENTENCE = re.compile(
    r".*[\u0e00-\u0eff]['\"”»)]*$"  # Thai and Lao have no full stop: what ends in them ends
    r"|.*[.?!…。？！؟۔।॥]['\"”»)]*",
    re.DOTALL,
)
_QUOTES = " \t\"'*`“”«»"
_ASK = 2_000
"""Requests handed over at a time."""


@dataclass
class Grown:
    """What came of it.

    Args:
        prompts: in the order in which they were kept.
        nodes: id -> lineage of them and of all that was shown.
        grid: quotas and counts.
        dropped: "source: reason" -> replies or rows that became no prompt.
        rounds: how many it took.
    """

    prompts: list[PromptRecord]
    nodes: dict[str, Node]
    grid: Grid
    dropped: Counter[str] = field(default_factory=Counter)
    rounds: int = 0


class _Try(NamedTuple):
    cell: Cell
    operation: Operation
    shown: tuple[Parent, ...]
    sampling: Sampling


def grow(
    plan: PromptPlan,
    endpoints: Mapping[str, Endpoint],
    imports: Mapping[str, Iterable[PromptRecord]],
    seeds: Sequence[PromptRow],
    *,
    avoid: Sequence[str] = (),
    seed: int = 0,
    on_rows: Callable[[int], object] = lambda rows: None,
    on_round: Callable[[Grown], object] = lambda grown: None,
) -> Grown:
    """Prompts for the plan's grid; what imported sources can't bring, the models write.

    Args:
        endpoints: model name of the plan -> who writes.
        imports: source name -> rows of its tables.
        seeds: prompts that may be shown (no test prompts, so that none of them becomes a parent).
        avoid: prompts that no new one may be near to, for example of a test set.
        on_rows: hears of replies, `on_round` of the state after each round.
    """
    grid = Grid(plan.cells, {name: source.share for name, source in plan.sources.items()})
    nursery = _Nursery(plan, grid, seeds, avoid, seed)
    for name, source in plan.sources.items():
        if source.tables is not None:
            nursery.take_in(name, source, imports[name])
    grown = nursery.grown
    writing = {name: source for name, source in plan.sources.items() if source.model is not None}
    for name in plan.sources.keys() - writing.keys():
        grid.hand_over(name, {heir: source.share for heir, source in writing.items()})
    while grown.rounds < plan.rounds and any(grid.emptiest(name) for name in writing):
        grown.rounds += 1
        for name, source in writing.items():
            nursery.write(name, source, endpoints[source.model or ""], on_rows)
        on_round(grown)
    return grown


class _Nursery:
    def __init__(
        self, plan: PromptPlan, grid: Grid, seeds: Sequence[PromptRow], avoid: Sequence[str], seed: int
    ) -> None:
        self.plan, self.seed = plan, seed
        self.grown = Grown([], {row.id: Node.of_seed(row) for row in seeds}, grid)
        self._texts = list(avoid)
        self._parents: dict[Cell, list[Parent]] = defaultdict(list)
        for row in seeds:
            if row.category is not None and row.kind in ("harmful", "lookalike"):
                cell = Cell(Category.parse(row.category), Severity(row.severity))
                self._parents[cell].append(Parent(row.id, row.prompt, cell.severity))
        self._attempts: Counter[tuple[str, Cell]] = Counter()

    def take_in(self, name: str, source: PromptSource, rows: Iterable[PromptRecord]) -> None:
        """Import prompts, in an order of chance, until the source's part of each cell is full."""
        placed: list[tuple[int, Cell, PromptRecord]] = []
        for row in rows:
            try:
                cell = cell_of(row, source.severity)
            except ValueError:
                self.grown.dropped[f"{name}: no such category or severity"] += 1
                continue
            if cell is None or not self.grown.grid.wanted(cell, name):
                self.grown.dropped[f"{name}: no cell of the grid"] += 1
                continue
            text = row.prompt.strip()
            placed.append((uniform_seed(self.seed, "import", name, text), cell, row))
        placed.sort(key=lambda entry: entry[0])
        for start in range(0, len(placed), _ASK):
            part = [(cell, row) for _, cell, row in placed[start : start + _ASK] if self.grown.grid.missing(cell, name)]
            fresh = self._fresh([_conversation(row) for _, row in part])
            for (cell, row), keep in zip(part, fresh, strict=True):
                if not keep:
                    self.grown.dropped[f"{name}: near-duplicate"] += 1
                elif self.grown.grid.add(cell, name):
                    self._keep_import(name, cell, row)

    def _keep_import(self, name: str, cell: Cell, row: PromptRecord) -> None:
        id_ = text_id("p", *(turn.content for turn in row.turns), row.prompt)
        node = Node.made(id_, row.prompt, "import", row.dataset or name, cell, source_id=row.source_id)
        provenance = {**(row.provenance or {}), **node.provenance()}
        self._keep(
            node,
            row.model_copy(
                update={
                    "source": name,
                    "kind": _kind(cell),
                    "category": cell.category.code,
                    "severity": int(cell.severity),
                    "source_id": id_,
                    "provenance": provenance,
                }
            ),
        )

    def write(self, name: str, source: PromptSource, endpoint: Endpoint, on_rows: Callable[[int], object]) -> None:
        """One round of one source: requests for all it owes, the emptiest cells first."""
        tries = []
        for cell in self.grown.grid.emptiest(name):
            wanted = math.ceil(self.grown.grid.missing(cell, name) * self.plan.oversample)
            tries += [self._try(name, source, cell) for _ in range(wanted)]
        for start in range(0, len(tries), _ASK):
            part = [t for t in tries[start : start + _ASK] if self.grown.grid.missing(t.cell, name)]
            asked = [t.operation.ask(t.cell, t.shown, source.style) for t in part]
            how = [t.sampling for t in part]
            if source.style == "chat":
                replies = endpoint.chat([a.messages or [] for a in asked], how, on_rows)
            else:
                replies = endpoint.complete([a.text or "" for a in asked], how, on_rows)
            self.grown.dropped.update(f"{name}: no answer ({reply.reason})" for reply in replies if reply.reason)
            answered = [(t, reply.text) for t, reply in zip(part, replies, strict=True) if not reply.reason]
            self._harvest(name, source, endpoint.name, answered)

    def _try(self, name: str, source: PromptSource, cell: Cell) -> _Try:
        self._attempts[name, cell] += 1
        key = (name, cell.name, str(self._attempts[name, cell]))
        operation = Operation(self._choose(source, key), self._language(source, key))
        shown = self._shown(operation, cell, key)
        if operation.needs_parent and not shown:  # nothing to change yet
            operation = Operation("generate")
            shown = self._shown(operation, cell, key)
        sampling = Sampling(
            temperature=source.temperature,
            top_p=source.top_p,
            max_new_tokens=source.max_new_tokens,
            seed=uniform_seed(self.seed, "prompt", *key),
        )
        return _Try(cell, operation, shown, sampling)

    def _choose(self, source: PromptSource, key: tuple[str, ...]) -> OperationName:
        drawn = uniform_seed(self.seed, "operation", *key) % 2**20 / 2**20
        for name, share in source.operations.shares.items():
            drawn -= share
            if drawn < 0:
                return name
        return next(iter(source.operations.shares))

    def _language(self, source: PromptSource, key: tuple[str, ...]) -> str:
        return source.languages[uniform_seed(self.seed, "language", *key) % len(source.languages)]

    def _shown(self, operation: Operation, cell: Cell, key: tuple[str, ...]) -> tuple[Parent, ...]:
        own = self._parents[cell]
        near = [p for c, ps in self._parents.items() if c.category == cell.category and c != cell for p in ps]
        if cell.severity == Severity.NONE or not near:
            near = [p for p in near if p.severity == Severity.NONE]
        else:
            near = [p for p in near if p.severity != Severity.NONE]
        if operation.name == "set-severity":
            return tuple(self._draw(near, 1, key))
        if operation.needs_parent:
            return tuple(self._draw(own, 1, key))
        chosen = self._draw(own, self.plan.shown, key)
        return (*self._draw(near, self.plan.shown - len(chosen), key), *chosen)

    def _draw(self, parents: Sequence[Parent], count: int, key: tuple[str, ...]) -> list[Parent]:
        return sorted(parents, key=lambda parent: uniform_seed(self.seed, "shown", parent.id, *key))[: max(0, count)]

    def _harvest(self, name: str, source: PromptSource, model: str, answered: Sequence[tuple[_Try, str]]) -> None:
        found: list[tuple[_Try, Written]] = []
        for attempt, reply in answered:
            written = attempt.operation.read(reply, attempt.shown, source.style)
            text, reason = cleaned(written.prompt, source.style, self.plan.shortest, self.plan.longest)
            if text is not None and attempt.operation.name == "translate":
                reason = _wrong_language(text, attempt.operation.language)
            if text is None or reason is not None:
                self.grown.dropped[f"{name}: {reason}"] += 1
            else:
                found.append((attempt, Written(written.turns, text)))
        fresh = self._fresh([_said(written) for _, written in found])
        for (attempt, written), keep in zip(found, fresh, strict=True):
            if not keep:
                self.grown.dropped[f"{name}: near-duplicate"] += 1
            elif not self.grown.grid.add(attempt.cell, name):
                self.grown.dropped[f"{name}: cell full"] += 1
            else:
                self._keep_written(name, model, attempt, written)

    def _keep_written(self, name: str, model: str, attempt: _Try, written: Written) -> None:
        id_ = text_id("p", *(content for _, content in written.turns), written.prompt)
        node = Node.made(
            id_,
            written.prompt,
            attempt.operation.name,
            model,
            attempt.cell,
            parents=tuple(parent.id for parent in attempt.shown),
            template=attempt.operation.version,
            sampling=sampling_json(attempt.sampling),
        )
        record = PromptRecord(
            prompt=written.prompt,
            turns=tuple(Turn(role=role, content=content) for role, content in written.turns),
            source=name,
            kind=_kind(attempt.cell),
            category=attempt.cell.category.code,
            severity=int(attempt.cell.severity),
            language=language_of(written.prompt),
            source_id=id_,
            provenance=node.provenance(),
        )
        self._keep(node, record)

    def _keep(self, node: Node, record: PromptRecord) -> None:
        self.grown.nodes[node.id] = node
        self.grown.prompts.append(record)
        cell = Cell(Category.parse(record.category or ""), Severity(record.severity))
        if record.split != "test":
            self._parents[cell].append(Parent(node.id, record.prompt, cell.severity))
        self._texts.append(_conversation(record))

    def _fresh(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are near to none that is kept, nor to one before them."""
        if not texts:
            return []
        kept: list[bool] = drop_near_duplicates(texts, self._texts, self.plan.near_duplicate).tolist()
        return kept


def cell_of(row: PromptRecord, severity: str | None) -> Cell | None:
    """The cell of an imported prompt: its own category and severity, or those of its label; None where it has none.

    Args:
        severity: of rows that have a category but no severity.

    Raises:
        ValueError: a category that is none of the 19, or a severity outside 0..3.
    """
    names = [row.category] if row.category is not None else list(row.label.categories or ())
    if row.category is None and row.label.taxonomy != PKU:
        names = []
    level = row.severity or row.label.severity
    if row.kind == "lookalike" and row.category is not None:
        return Cell(Category.parse(row.category), Severity.NONE)
    if not names or (not level and severity is None):
        return None
    return Cell(Category.parse(names[0]), Severity(level) if level else Severity.parse(severity or ""))


def cleaned(reply: str, style: str, shortest: int, longest: int) -> tuple[str | None, str | None]:
    """(the prompt in a reply, None) or (None, why it holds none).

    Args:
        style: of a continuation only the first line counts; of a chat reply all of it, on one line.
        shortest, longest: in words.
    """
    text = reply.strip()
    if style == "continue":
        text = text.splitlines()[0] if text else ""
    text = _LEAD.sub("", " ".join(text.split())).strip(_QUOTES)
    if not text:
        return None, "unclear"
    if refuses(text):
        return None, "refused"
    sentences = _SENTENCE.match(text)
    if sentences is None or not shortest <= len(words_of(sentences[0])) <= longest or garbled(sentences[0]):
        return None, "unclear"
    return sentences[0].strip(), None


def _wrong_language(text: str, wanted: str | None) -> str | None:
    code = LANGUAGES.get(wanted or "")
    found = language_of(text)
    return "another language" if code is not None and found != code else None


def _conversation(record: PromptRecord) -> str:
    return "\n".join([*(turn.content for turn in record.turns), record.prompt])


def _said(written: Written) -> str:
    return "\n".join([*(content for _, content in written.turns), written.prompt])


def _kind(cell: Cell) -> str:
    return "lookalike" if cell.severity == Severity.NONE else "harmful"
