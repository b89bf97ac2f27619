"""Who stands where in a synthetic corpus: every answer, pair, source and preference as arrays of ids, without texts.

Answers 0..2 * dual - 1 are those of the pairs, two by two; the others are in no dual pair. Counts are scaled and
rounded, places are a hash of the seed. Left out: any relation of preferences to severity where both answers are unsafe,
because none is published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from poise.data.synth import marginals as m
from poise.data.synth.labels import Labels, published_pairs
from poise.data.synth.texts import Ids, draw
from poise.errors import PoiseError

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Size:
    """Rows of each unit; `dual` pairs have two answers each, which are in `qa` too."""

    prompts: int
    qa: int
    dual: int
    single: int

    @classmethod
    def of(cls, scale: float) -> Size:
        """A share or multiple of the whole public release.

        Raises:
            PoiseError: the scale is not positive, or so small that nothing is left.
        """
        sizes = [round(scale * rows) for rows in (m.PROMPTS, m.QA, m.DUAL, m.SINGLE)]
        if not scale > 0 or min(sizes) < 10:
            raise PoiseError(f"scale {scale}", do="give one of at least 0.001; 1 is 265,000 answers")
        return cls(*sizes)

    @classmethod
    def published(cls) -> Size:
        """The dual train split at revision 9421ffa and its single preferences: the audit must give its counts."""
        return cls(m.DISTINCT_PROMPTS, 2 * m.PAIRS + m.SINGLE_TRAIN - m.MATCHED, m.PAIRS, m.SINGLE_TRAIN)


class Corpus:
    """Everything but the texts.

    Args:
        contradictions: turn the safe flags of eight answers round, see `poise.data.synth.plant.Plant`.

    Raises:
        PoiseError: the sizes do not fit each other.
    """

    def __init__(self, size: Size, seed: int, contradictions: bool = False) -> None:
        self.size, self.seed = size, seed
        labels = published_pairs()
        order = self._shuffled(size.dual, 1)
        pairs = labels.sample(size.dual)[order]
        swap = (draw(seed, 2, np.arange(size.dual)) & np.uint64(1)).astype(np.bool_)
        self.pairs: Labels = np.where(swap[:, None], pairs[:, ::-1], pairs)
        extra = size.qa - 2 * size.dual
        if extra < 0:
            raise PoiseError(f"{size.qa} answers for {size.dual} pairs", do="ask for two answers a pair or more")
        spread = labels.sample(max(1, (extra + 1) // 2)).ravel()[:extra]
        self.labels: Labels = np.concatenate([self.pairs.ravel(), spread[self._shuffled(extra, 3)]])
        self.contradictions = self._contradictions() if contradictions else np.empty(0, dtype=np.int64)
        self.safe = self.labels == 0
        self.safe[np.concatenate([2 * self.contradictions, 2 * self.contradictions + 1])] ^= True
        self._sources()
        self._preferences()

    def _shuffled(self, count: int, purpose: int) -> Ids:
        return np.argsort(draw(self.seed, purpose, np.arange(count)), kind="stable")

    def _contradictions(self) -> Ids:
        """Two pairs of safe answers and two of answers with one unsafe label, so that no count of pairs changes."""
        equal = self.pairs[:, 0] == self.pairs[:, 1]
        safe = self.pairs[:, 0] == 0
        found = np.concatenate([np.flatnonzero(equal & safe)[:2], np.flatnonzero(equal & ~safe)[:2]])
        if len(found) < 4:
            raise PoiseError(f"{self.size.dual} pairs", do="ask for some hundreds of pairs to plant contradictions in")
        return found

    def _sources(self) -> None:
        """Prompts of pairs: each prompt has at least one where there are enough, the others are spread by hash."""
        size = self.size
        names = list(m.PROMPT_SOURCES)
        shares = np.array(list(m.PROMPT_SOURCES.values()))
        bounds = np.round(np.cumsum(shares) * size.dual / shares.sum()).astype(np.int64)
        prompts = np.round(np.cumsum(shares) * size.prompts / shares.sum()).astype(np.int64)
        of_pair, first_pair, first_prompt = np.empty(size.dual, dtype=np.int64), 0, 0
        for pairs_end, prompts_end in zip(bounds, prompts, strict=True):
            count, here = pairs_end - first_pair, prompts_end - first_prompt
            drawn = (draw(self.seed, 4, np.arange(first_pair, pairs_end)) % np.uint64(max(1, here))).astype(np.int64)
            of_pair[first_pair:pairs_end] = first_prompt + np.where(np.arange(count) < here, np.arange(count), drawn)
            first_pair, first_prompt = pairs_end, prompts_end
        self.prompt_of_pair = of_pair[self._shuffled(size.dual, 5)]
        self.prompt_source = np.array(names)[np.searchsorted(prompts, np.arange(size.prompts), side="right")]
        models = np.array(list(m.SUBSETS.values()))
        ends = np.round(np.cumsum(models) * size.dual / models.sum())
        model = np.array(list(m.SUBSETS))[np.searchsorted(ends, np.arange(size.dual), side="right")]
        self.model_of_pair = model[self._shuffled(size.dual, 6)]

    def _preferences(self) -> None:
        size, rows = self.size, np.arange(self.size.dual)
        safe = self.pairs == 0
        mixed = safe[:, 0] != safe[:, 1]
        coin = (draw(self.seed, 7, rows) & np.uint64(1)).astype(np.int64)
        self.safer = np.where(mixed, np.where(safe[:, 0], 0, 1), coin)
        conflicts = round(m.BETTER_IS_NOT_SAFER * size.dual / m.PAIRS)
        conflict = np.zeros(size.dual, dtype=np.bool_)
        conflict[self._shuffled(size.dual, 8)[:conflicts]] = True
        self.better = np.where(conflict, 1 - self.safer, self.safer)
        self._single(conflict, mixed)

    def _single(self, conflict: Flags, mixed: Flags) -> None:
        """Which pairs have an overall choice, and what it is: published shares of each kind, met to the row."""
        size = self.size
        matched = min(size.dual, round(m.MATCHED * size.single / m.SINGLE_TRAIN))
        wanted = round(m.CONFLICTS * matched / m.MATCHED)
        order = self._shuffled(size.dual, 9)
        with_conflict, without = order[conflict[order]], order[~conflict[order]]
        first = with_conflict[: min(wanted, len(with_conflict))]
        chosen = np.concatenate([first, without[: matched - len(first)]])
        follows_safer = np.ones(size.dual, dtype=np.bool_)
        at_boundary, elsewhere = first[mixed[first]], first[~mixed[first]]
        better_there = round((1 - m.SINGLE_PICKS_SAFE) * len(at_boundary))
        follows_safer[at_boundary[:better_there]] = False
        better = round(m.SINGLE_FOLLOWS_BETTER * len(first)) - better_there
        follows_safer[elsewhere[: max(0, better)]] = False
        agreeing = chosen[len(first) :]
        follows_safer[agreeing[: round(m.SINGLE_CONTRADICTS * len(agreeing))]] = False
        choice = np.where(follows_safer, self.safer, 1 - self.safer)
        rows = np.sort(chosen)
        self.single_pairs, self.single_choice = rows, choice[rows]
        extra = size.qa - 2 * size.dual
        self.unmatched = 2 * size.dual + np.arange(min(size.single - matched, extra))  # the first answer of each

    def prompt_of(self, answers: Ids) -> Ids:
        """The prompt of each answer; one that is in no pair shares the prompt of some pair."""
        found: Ids = self.prompt_of_pair[self.pair_of(answers)]
        return found

    def model_of(self, answers: Ids) -> NDArray[np.str_]:
        """The model of each answer."""
        found: NDArray[np.str_] = self.model_of_pair[self.pair_of(answers)]
        return found

    def pair_of(self, answers: Ids) -> Ids:
        """The pair of each answer, or the pair whose prompt it shares."""
        return np.where(answers < 2 * self.size.dual, answers // 2, answers) % self.size.dual
