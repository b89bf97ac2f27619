"""Several guards as one: their P(unsafe) combined by weights that learn from whatever truth comes back (AEGIS)."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace

from poise.errors import PoiseError
from poise.guard.ensemble.combiner import Combiner
from poise.guard.verdict import Guard, GuardGoneError, Item, Verdict, judged, unjudged


class EnsembleGuard:
    """A guard of guards; `learn` tells it what was true.

    A guard that gives no probability advises 1 or 0 by its verdict; one that is unjudged abstains, and the details of
    the joint verdict say why. Categories, severity and the guard's own words are those of the heaviest expert that
    agrees with the joint verdict: taxonomies differ, so nothing is averaged.

    A guard that can't be asked at all (its servers are down for good, or refuse the key) is warned of once, named in
    `gone`, and unjudged from then on; the others go on. It keeps its weight relative to theirs, as any sleeper does.

    Args:
        guards: the experts, asked one after the other.
        combiner: their weights, over the same names; a new one by default.
        threshold: unsafe from this P(unsafe) on.
        name: of the ensemble.

    Raises:
        PoiseError: the combiner was made for other experts, or the threshold is outside 0..1.
    """

    def __init__(
        self,
        guards: Sequence[Guard],
        combiner: Combiner | None = None,
        *,
        threshold: float = 0.5,
        name: str = "ensemble",
    ) -> None:
        names = tuple(guard.name for guard in guards)
        self.guards, self.threshold, self.name = list(guards), threshold, name
        self.combiner = combiner or Combiner(names)
        self.gone: dict[str, str] = {}
        """Expert -> why it can't be asked; one that is taken out, because its server is back, is asked again."""
        if self.combiner.experts != names:
            raise PoiseError(
                f"weights of {', '.join(self.combiner.experts)} for {', '.join(names)}",
                where=name,
                do="name the experts as the guards, in their order",
            )
        if not 0.0 <= threshold <= 1.0:
            raise PoiseError(f"threshold {threshold}", where=name, do="give one in 0..1")

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order; unjudged only where every guard is.

        Raises:
            GuardGoneError: no guard can be asked any more (exit code 3); the next call asks all of them again, but a
                guard whose key was refused sends nothing until it is made anew.
            PoiseError: what else `judge` of a guard raises.
        """
        by_guard = [self._ask(guard, items) for guard in self.guards]
        if len(self.gone) == len(self.guards):
            told = "; ".join(f"{name}: {why}" for name, why in self.gone.items())
            self.gone.clear()
            error = PoiseError(
                f"no expert can be asked: {told}",
                where=self.name,
                do="see to the servers and keys, then run it again; replies so far are stored",
                exit_code=3,
            )
            raise GuardGoneError(error, [unjudged(f"not asked: {error.what}")] * len(items))
        return [self._joint(item, verdicts) for item, verdicts in zip(items, zip(*by_guard, strict=True), strict=True)]

    def learn(self, item: Item, *, unsafe: bool) -> bool:
        """What was true of an item that was judged; false when it is not waited for."""
        return self.combiner.learn(round_of(item), unsafe=unsafe)

    def _ask(self, guard: Guard, items: Sequence[Item]) -> list[Verdict]:
        """A guard's verdicts; where it can't be asked, those that it gave before it went."""
        if guard.name in self.gone:
            return [unjudged(f"not asked: {self.gone[guard.name]}")] * len(items)
        try:
            return guard.judge(items)
        except GuardGoneError as error:
            self.gone[guard.name] = error.what
            warnings.warn(f"{self.name} goes on without {guard.name}, which can't be asked: {error}", stacklevel=3)
            return error.verdicts

    def _joint(self, item: Item, verdicts: Sequence[Verdict]) -> Verdict:
        decision = self.combiner.decide(round_of(item), [advice_of(verdict) for verdict in verdicts])
        raw = tuple(text for verdict in verdicts for text in verdict.raw)
        named = list(zip(self.combiner.experts, verdicts, strict=True))
        silent = {f"unjudged {name}": verdict.reason for name, verdict in named if verdict.reason is not None}
        if decision.probability is None:
            return replace(unjudged("every guard is unjudged", *raw), details=silent)
        unsafe = decision.probability >= self.threshold
        weights = zip(self.combiner.experts, decision.weights.tolist(), strict=True)
        details = {name: f"{weight:.6f}" for name, weight in weights} | silent
        agreeing = [(w, v) for w, v in zip(decision.weights.tolist(), verdicts, strict=True) if v.unsafe is unsafe]
        if not agreeing:  # the mean crosses the threshold, no expert's own verdict does
            return judged(unsafe, probability=decision.probability, details=details, raw=raw)
        _, lead = max(agreeing, key=lambda pair: pair[0])
        return replace(lead, probability=decision.probability, strict=None, tiers=None, details=details, raw=raw)


def advice_of(verdict: Verdict) -> float | None:
    """P(unsafe) of a verdict, 1 or 0 where it tells none, None where it is unjudged."""
    if verdict.unsafe is None:
        return None
    return float(verdict.unsafe) if verdict.probability is None else verdict.probability


def round_of(item: Item) -> str:
    """The name of an item's round: 32 hex digits over its texts."""
    prompt, response = item
    told = prompt if response is None else f"{prompt}\x1f{response}"
    kind = "prompt" if response is None else f"pair {len(prompt)}"
    return hashlib.sha256(f"{kind}\x1e{told}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
