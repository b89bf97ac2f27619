"""What each offline method does with the pairs: its phases, which label makes the chosen response, its loss.

| method | phases | uses pairs |
|---|---|---|
| `dpo`, `ipo` | actor | with the label of its section |
| `safe_dpo` | actor | better and both flags, but for those with two unsafe responses |
| `bfpo` | actor | better and both flags |
| `sacpo` | helpful, actor (from helpful, which is its reference) | better, then safer |
| `mocan` | actor | all, labelled by reward - lambda* cost of the models in `scores` |
| `pecan` | helpful, harmless, actor | better, then safer, then all, labelled by the first two phases |
| `derta` | actor | one safe response of two |

MoCAN and PeCAN find lambda* on the responses that the data hold, which therefore should be the reference's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from poise.align.algorithms.bfpo import BFPO, selected
from poise.align.algorithms.derta import prefix_length, prefix_row, transition_row
from poise.align.algorithms.dpo import DPO, IPO
from poise.align.algorithms.mocan import pseudo_labels, solve_dual
from poise.align.algorithms.pecan import implicit_scores
from poise.align.algorithms.sacpo import SACPO
from poise.align.algorithms.safe_dpo import SafeDPO, reorder
from poise.align.train.batches import EncodedPair, Store
from poise.align.train.methods import BFPOOptions, Constraint, DeRTaOptions, IPOOptions, LabelOption
from poise.align.train.objectives import LabelObjective, Objective, PairObjective
from poise.align.train.offline import Phase
from poise.align.train.recipe import Recipe
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.trunk import REFERENCE, Trunk

ROLES: Mapping[str, tuple[str, ...]] = {"sacpo": ("actor", "helpful"), "pecan": ("actor", "helpful", "harmless")}
"""Roles of methods that have more than the actor."""


class Job(NamedTuple):
    """What the phases are made from.

    Args:
        recipe, trunk, store: of the run.
        is_held_out: of every pair of the store.
        scores: reward and cost float[N, 2] of all pairs, for MoCAN.
        facts: what the methods find out and the report tells; filled by the phases.
    """

    recipe: Recipe
    trunk: Trunk
    store: Store
    is_held_out: list[bool]
    scores: Callable[[], tuple[Tensor, Tensor]]
    facts: dict[str, Any]

    @property
    def pairs(self) -> Sequence[EncodedPair]:
        """All pairs, held-out ones among them."""
        return self.store.pairs

    def voted(self, label: str) -> dict[int, int]:
        """Pair -> chosen response id, for pairs whose label "better" or "safer" is known.

        Raises:
            PoiseError: no pair to train on has it.
        """
        votes = {at: getattr(pair.text, label) for at, pair in enumerate(self.pairs)}
        return self.usable({at: vote for at, vote in votes.items() if vote is not None}, f"the {label} response")

    def flagged(self) -> dict[int, int]:
        """Pair -> more helpful response id, for pairs with that and both flags.

        Raises:
            PoiseError: there is none, or no flag differs, so that the data say nothing of safety.
        """
        flagged = {at: vote for at, vote in self.voted("better").items() if None not in self.pairs[at].text.unsafe}
        self.usable(flagged, "the better response and safe or unsafe for both")
        kinds = {flag for at in flagged for flag in self.pairs[at].text.unsafe}
        if len(kinds) == 1:
            word = "unsafe" if kinds.pop() else "safe"
            raise self.lacking(f"all responses are {word}; it needs safe and unsafe ones")
        return flagged

    def usable(self, chosen: dict[int, int], what: str) -> dict[int, int]:
        """The same, or an error that says what the pairs lack."""
        if not any(not self.is_held_out[at] for at in chosen):
            raise self.lacking(f"no pair to train on has {what}")
        self.facts["pairs_used"] = self.facts.get("pairs_used", 0) + len(chosen)
        return chosen

    def lacking(self, what: str) -> PoiseError:
        """What to say where the data do not hold what the method needs."""
        method = self.recipe.method
        return PoiseError(what, where=f"method {method.name!r}", do=f"it needs {method.needs}")


def phases_of(job: Job) -> list[Phase]:
    """The phases of the job's method; what its data lack is found before the first of them.

    Raises:
        PoiseError: the data do not hold what the method needs.
    """
    return _PHASES[job.recipe.method.name](job)


def _dpo(job: Job) -> list[Phase]:
    constants, option = job.recipe.part(DPO), job.recipe.part(LabelOption)
    chosen = job.voted(option.label)
    return [_actor(job, chosen, lambda pairs, at: constants.loss(pairs))]


def _ipo(job: Job) -> list[Phase]:
    constants, option = job.recipe.part(IPO), job.recipe.part(IPOOptions)
    chosen = job.voted(option.label)
    return [_actor(job, chosen, lambda pairs, at: constants.loss(pairs), average=option.average)]


def _safe_dpo(job: Job) -> list[Phase]:
    constants, better = job.recipe.part(SafeDPO), job.flagged()
    numbers = list(better)
    flags = torch.tensor(
        [[_unsafe(job.pairs[at], better[at]), _unsafe(job.pairs[at], 1 - better[at])] for at in numbers]
    )
    order = reorder(flags[:, 0], flags[:, 1])
    job.facts.update({f"share_{name}": share for name, share in order.shares.items()})
    kept = [
        (at, int(better[at] ^ bool(swap)))
        for at, swap, keep in zip(numbers, order.swap, order.keep, strict=True)
        if keep
    ]
    chosen = job.usable(dict(kept), "a safe response")
    if not bool(order.contrast.any()):
        raise job.lacking("no pair has exactly one safe response, so that it would be plain dpo")
    contrast = torch.zeros(len(job.pairs))
    contrast[torch.tensor(numbers)] = order.contrast.float()
    swapped = [at in chosen and chosen[at] != better[at] for at in range(len(job.pairs))]
    return [
        _actor(
            job,
            chosen,
            lambda pairs, at: constants.loss(pairs, contrast[at].to(pairs.gap.device)),
            marks={"swapped": swapped},
        )
    ]


def _bfpo(job: Job) -> list[Phase]:
    constants, option, chosen = job.recipe.part(BFPO), job.recipe.part(BFPOOptions), job.flagged()
    safe = torch.tensor(
        [
            [not _unsafe(pair, chosen.get(at, 0)), not _unsafe(pair, 1 - chosen.get(at, 0))]
            for at, pair in enumerate(job.pairs)
        ]
    )

    def loss(pairs: Any, at: Tensor) -> Any:
        flags = safe[at].to(pairs.gap.device)
        return constants.loss(pairs, flags[:, 0], flags[:, 1])

    parameters = selected(job.trunk.state_of("actor")) if option.selective else None
    return [_actor(job, chosen, loss, parameters=parameters)]


def _sacpo(job: Job) -> list[Phase]:
    helpful, safe = job.recipe.part(SACPO).steps
    orders = {step.label: job.voted(step.label) for step in (helpful, safe)}
    return [
        _actor(job, orders[helpful.label], lambda pairs, at: helpful.loss.loss(pairs), name="helpful", role="helpful"),
        _actor(job, orders[safe.label], lambda pairs, at: safe.loss.loss(pairs), start="helpful", reference="helpful"),
    ]


def _mocan(job: Job) -> list[Phase]:
    constants = job.recipe.part(Constraint)

    def make() -> Objective:
        reward, cost = job.scores()
        return _dual_actor(job, constants, reward, cost)

    return [Phase("actor", make)]


def _pecan(job: Job) -> list[Phase]:
    constants = job.recipe.part(Constraint)
    loss = DPO(constants.beta).loss
    parts = [
        _actor(job, job.voted(label), lambda pairs, at: loss(pairs), name=role, role=role)
        for role, label in (("helpful", "better"), ("harmless", "safer"))
    ]

    def make() -> Objective:
        helpful, harmless, reference = (job.store.log_probs(role) for role in ("helpful", "harmless", REFERENCE))
        scores = implicit_scores(helpful, harmless, reference, constants.beta)
        return _dual_actor(job, constants, scores.reward, scores.cost)

    return [*parts, Phase("actor", make)]


def _dual_actor(job: Job, constants: Constraint, reward: Tensor, cost: Tensor) -> Objective:
    """The last phase of MoCAN and PeCAN: lambda* on the pairs to train on, pseudo-labels of all, DPO."""
    train = [at for at, out in enumerate(job.is_held_out) if not out]
    try:
        multiplier = solve_dual(reward[train], cost[train], constants.threshold, constants.beta)
    except ValueError as error:
        raise job.lacking(str(error)) from error
    seed = job.recipe.head.seed
    chance = torch.tensor(
        [uniform_seed(seed, "pseudo-label", pair.text.prompt, *pair.text.responses) / 2**63 for pair in job.pairs],
        dtype=torch.float64,
    )
    labels = pseudo_labels(reward.double(), cost.double(), multiplier, chance).tolist()
    job.facts.update({"multiplier": multiplier, "mean_cost": float(cost[train].mean())})
    loss = DPO(constants.beta).loss
    return _actor(job, dict(enumerate(labels)), lambda pairs, at: loss(pairs)).make()


def _derta(job: Job) -> list[Phase]:
    option = job.recipe.part(DeRTaOptions)
    refusal = job.trunk.tokenizer(option.refusal, add_special_tokens=False)["input_ids"]
    if not refusal:
        raise PoiseError(f"{option.refusal!r} has no token", where="derta.refusal", do="give a word")
    mixed = [at for at, pair in enumerate(job.pairs) if set(pair.text.unsafe) == {True, False}]
    job.usable(dict.fromkeys(mixed, 0), "exactly one safe response")
    end, rows = job.trunk.tokenizer.eos_token_id, []
    for number, at in enumerate(mixed):
        pair = job.pairs[at]
        bad = pair.text.unsafe.index(True)
        safe, harmful = pair.responses[1 - bad], [token for token in pair.responses[bad] if token != end]
        chance = uniform_seed(job.recipe.head.seed, "derta", pair.text.prompt, *pair.text.responses) / 2**63
        k = prefix_length(len(harmful), number, chance)
        rows.append((prefix_row(pair.prompt, harmful, safe, k), transition_row(pair.prompt, harmful, refusal[0])))
    where, held_out = [job.pairs[at].text.where for at in mixed], [job.is_held_out[at] for at in mixed]
    return [Phase("actor", lambda: LabelObjective(job.trunk, rows, where, held_out))]


def _actor(
    job: Job, chosen: dict[int, int], loss: Callable[[Any, Tensor], Any], name: str = "actor", **rest: Any
) -> Phase:
    return Phase(name, lambda: PairObjective(job.store, chosen, loss, job.is_held_out, name=name, **rest))


def _unsafe(pair: EncodedPair, response: int) -> bool:
    return bool(pair.text.unsafe[response])


_PHASES: Mapping[str, Callable[[Job], list[Phase]]] = {
    "dpo": _dpo,
    "ipo": _ipo,
    "safe_dpo": _safe_dpo,
    "bfpo": _bfpo,
    "sacpo": _sacpo,
    "mocan": _mocan,
    "pecan": _pecan,
    "derta": _derta,
}
