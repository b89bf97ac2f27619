"""How the 19 categories and others' category sets correspond, as data with a sign in every cell.

A cell reads from its source category: `=` the two are near-equivalent; `<` the source is narrower, so a member of it is
a member of the target; `>` the source is wider; `~` they overlap. One file a pair, written from our side
(`crosswalks/*.toml`); the way back inverts the signs. A mapping is total: a category has cells or is declared to have
no counterpart. Sets of others meet only through ours, in two steps; a direct table would hide the loss in between.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import NamedTuple

from poise.errors import PoiseError
from poise.harm.taxonomy import PKU, Taxonomy, load_taxonomy


class Relation(StrEnum):
    """How a source category stands to a target category, strongest first."""

    EQUAL = "="
    NARROWER = "<"
    WIDER = ">"
    OVERLAPS = "~"

    @property
    def inverse(self) -> Relation:
        """The same relation seen from the target."""
        return {Relation.NARROWER: Relation.WIDER, Relation.WIDER: Relation.NARROWER}.get(self, self)


SETTING = frozenset({Relation.EQUAL, Relation.NARROWER})
"""Relations under which a member of the source is a member of the target."""
CONTAINING = frozenset({Relation.EQUAL, Relation.WIDER})
"""Relations under which a member of the target is a member of the source."""


@dataclass(frozen=True)
class Cell:
    """One entry of a crosswalk: `source` `relation` `target`, by their keys, with what to know about it."""

    source: str
    relation: Relation
    target: str
    note: str = ""

    @property
    def lossy(self) -> bool:
        """True for everything but near-equivalence."""
        return self.relation is not Relation.EQUAL


@dataclass(frozen=True, eq=False)
class Crosswalk:
    """The correspondence of two taxonomies, in one direction.

    Args:
        source, target: the taxonomies.
        version: semantic version of the file.
        cells: all entries.
        unmapped: source categories declared to have no counterpart -> why.
        unreached: target categories that no source category touches -> why.
    """

    source: Taxonomy
    target: Taxonomy
    version: str
    cells: tuple[Cell, ...]
    unmapped: Mapping[str, str]
    unreached: Mapping[str, str]

    def of(self, category: object) -> tuple[Cell, ...]:
        """The cells of a source category; none when it has no counterpart.

        Raises:
            PoiseError: the source taxonomy has no such category.
        """
        return self._from.get(self.source.parse(category), ())

    def into(self, category: object) -> tuple[Cell, ...]:
        """The cells that touch a target category; none when nothing does.

        Raises:
            PoiseError: the target taxonomy has no such category.
        """
        return self._into.get(self.target.parse(category), ())

    def inverse(self) -> Crosswalk:
        """The way back: every sign inverted."""
        back = tuple(Cell(cell.target, cell.relation.inverse, cell.source, cell.note) for cell in self.cells)
        return Crosswalk(self.target, self.source, self.version, back, self.unreached, self.unmapped)

    @cached_property
    def _from(self) -> dict[str, tuple[Cell, ...]]:
        return {key: tuple(cell for cell in self.cells if cell.source == key) for key in self.source.keys}

    @cached_property
    def _into(self) -> dict[str, tuple[Cell, ...]]:
        return {key: tuple(cell for cell in self.cells if cell.target == key) for key in self.target.keys}


@cache
def load_crosswalk(source: str, target: str) -> Crosswalk:
    """The crosswalk between "pku-19" and another taxonomy, in either direction.

    Raises:
        PoiseError: a name is unknown, or neither side is "pku-19".
    """
    left, right = load_taxonomy(source), load_taxonomy(target)
    if (left.name == PKU) == (right.name == PKU):
        raise PoiseError(
            f"no crosswalk leads from {left.name!r} to {right.name!r}",
            where="crosswalk",
            do=f"one side is {PKU!r}; go through it in two steps",
        )
    return _read(right) if left.name == PKU else _read(left).inverse()


def _read(target: Taxonomy) -> Crosswalk:
    source, path = load_taxonomy(PKU), files("poise.harm").joinpath("crosswalks", f"{target.name}.toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    notes, unmapped, cells = raw.get("notes", {}), {}, []
    for category, entries in raw["cells"].items():
        note = notes.get(category, {})
        if entries == ["none"]:
            unmapped[category] = note.get("none", "")
        else:
            pairs = [entry.split(" ", 1) for entry in entries]
            cells += [Cell(category, Relation(sign), key, note.get(key, "")) for sign, key in pairs]
    return Crosswalk(source, target, raw["version"], tuple(cells), unmapped, raw.get("unreached", {}))


@dataclass(frozen=True)
class Translation:
    """What a row labelled in one taxonomy is known to be in another.

    `categories` (when not None), `absent` and `undecided` share out the target's categories: known to apply, known not
    to apply, not known. A trainer sets the first to 1, the second to 0 and leaves the third out.

    Args:
        categories: what is known to apply. Empty means safe and nothing else; None when the row is or may be unsafe
            and no category can be named.
        unsafe: what the row itself says; None when nothing is flagged but not everything was looked at.
        absent: target categories known not to apply.
        undecided: target categories of which nothing is known.
        possible: those of `undecided` that a flagged category touches.
        lossy: the cells of flagged categories that are no near-equivalence.
        unmapped: flagged categories without a counterpart.
    """

    categories: frozenset[str] | None
    unsafe: bool | None
    absent: frozenset[str]
    undecided: frozenset[str]
    possible: frozenset[str]
    lossy: tuple[Cell, ...]
    unmapped: frozenset[str]


def translate(
    categories: Iterable[str] | None,
    crosswalk: Crosswalk,
    *,
    known: Iterable[str] | None = None,
    relations: Collection[Relation | str] = SETTING,
) -> Translation:
    """Translate the category set of one row, keeping apart what is known, what is excluded and what is open.

    **Set.** A flagged source category sets a target when its cell's relation is in `relations`: by default `=` and `<`,
    where a member of the source is a member of the target. `>` and `~` make the target `possible`. Harm to minors is
    set by `=` only, whatever `relations` says.

    **Judged.** Which source categories the row speaks about: all of them when nothing is flagged (safe means that none
    applies); all of them when the taxonomy is exhaustive; otherwise the flagged ones alone, as a row that has room for
    one category says nothing of the others. `known` replaces this where the data tells (a null is not a no).

    **Absent.** A target is known not to apply when some source category touches it, every one that touches it (by any
    relation) was judged, and none of them is flagged. In a row not known to be safe, one of them must moreover
    contain the target (`=` or `>`): there is harm in that row, and it may lie in the part of the target that only
    overlapping or narrower source categories leave uncovered. All else is undecided.

    Safe stays safe, and unsafe never becomes safe: where nothing can be set, `categories` is None and `unsafe` is True,
    also where the target taxonomy has no word for the harm; the row then teaches that it is unsafe, and what is absent.
    On to a third taxonomy: translate `categories` again, of an unsafe row with `known=first.absent`. A row whose
    `unsafe` is None cannot go on: a `categories` of None would call it unsafe.

    Args:
        categories: flagged source categories by key, code or title; empty = safe; None = unsafe, category unknown.
        crosswalk: which taxonomies.
        known: the source categories that were judged.
        relations: which relations set a target.

    Raises:
        PoiseError: the source taxonomy has no such category, or a relation is none of the four signs.
    """
    parse = crosswalk.source.parse
    for names in (categories, known):
        if isinstance(names, str):
            raise PoiseError(f"{names!r} is one name", where=crosswalk.source.name, do="give a set of names")
    flagged = None if categories is None else frozenset(map(parse, categories))
    judged = None if known is None else frozenset(map(parse, known))
    if odd := set(relations) - set(Relation):
        raise PoiseError(f"{min(odd)!r} is no relation", where="relations", do="one of: " + " ".join(Relation))
    return _translate(flagged, crosswalk, judged, frozenset(map(Relation, relations)))


@lru_cache(maxsize=8192)  # a corpus has few distinct category sets
def _translate(
    named: frozenset[str] | None, crosswalk: Crosswalk, known: frozenset[str] | None, setting: frozenset[Relation]
) -> Translation:
    source, target, flagged = crosswalk.source, crosswalk.target, named or frozenset()
    everything = frozenset(source.keys)
    if known is None:
        known = everything if named is not None and (source.exhaustive or not named) else frozenset()
    unsafe = True if named is None or flagged else False if known == everything else None

    used = [cell for key in source.keys if key in flagged for cell in crosswalk.of(key)]
    barred = {category.key for category in target.categories if not category.derivable}
    found = {c.target for c in used if c.relation in setting and not (c.lossy and c.target in barred)}
    absent = set()
    for key in target.keys:
        touching = {cell.source for cell in crosswalk.into(key)}
        contained = any(cell.relation in CONTAINING for cell in crosswalk.into(key))
        if touching and touching <= known - flagged and (unsafe is False or contained):
            absent.add(key)
    undecided = frozenset(target.keys) - found - absent
    return Translation(
        categories=frozenset(found) if found or unsafe is False else None,
        unsafe=unsafe,
        absent=frozenset(absent),
        undecided=undecided,
        possible=frozenset(cell.target for cell in used) & undecided,
        lossy=tuple(cell for cell in used if cell.lossy),
        unmapped=frozenset(key for key in flagged if not crosswalk.of(key)),
    )


class MappedScore(NamedTuple):
    """A score carried over from one or several source categories.

    Args:
        probability: noisy-or of the sources' probabilities, in [0, 1].
        peak: the largest of them, for flags: the target is flagged at a threshold when one of its sources is.
        relation: the strongest relation behind the number; None when there is none. Block nothing on `>` or `~` alone.
        evaluated: False when nothing reaches the target or a source score is missing: the number is then no verdict.
        cells: the cells used.
    """

    probability: float
    peak: float
    relation: Relation | None
    evaluated: bool
    cells: tuple[Cell, ...]


def translate_scores(scores: Mapping[str, float], crosswalk: Crosswalk) -> dict[str, MappedScore]:
    """Scores of all target categories from calibrated probabilities of source categories.

    Where `=` or `<` cells reach a target only they count; otherwise `>` and `~` cells stand in and the relation says
    so. Several sources combine by noisy-or, 1 - (1 - p1)(1 - p2)..., which takes them as independent, never by a sum.
    Harm to minors is reached by `=` only.

    Args:
        scores: source category -> probability; values outside [0, 1] are clipped.
        crosswalk: which taxonomies.

    Raises:
        PoiseError: the source taxonomy has no such category, or a score is not a number.
    """
    given: dict[str, float] = {}
    for name, score in scores.items():
        if math.isnan(score):
            raise PoiseError(f"the score of {name!r} is not a number", where=crosswalk.source.name, do="leave it out")
        given[crosswalk.source.parse(name)] = min(1.0, max(0.0, score))
    mapped = {}
    for category in crosswalk.target.categories:
        cells = crosswalk.into(category.key)
        if not category.derivable:
            cells = tuple(cell for cell in cells if not cell.lossy)
        cells = tuple(cell for cell in cells if cell.relation in SETTING) or cells
        values = [given[cell.source] for cell in cells if cell.source in given]
        mapped[category.key] = MappedScore(
            probability=1.0 - math.prod(1.0 - value for value in values),
            peak=max(values, default=0.0),
            relation=min((cell.relation for cell in cells), key=list(Relation).index, default=None),
            evaluated=bool(cells) and len(values) == len(cells),
            cells=cells,
        )
    return mapped
