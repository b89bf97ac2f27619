"""What the joint report estimates, as pure functions of one trial.

A trial is one variable (safe, severity, category set, or a choice) with all answers of people to it. Who was shown a
suggestion was drawn by hash, so the answers that were not shown one say what the same people would have said. Planted
suggestions are left out everywhere but in `planted`: on both sides, since the log also says which answer without a
suggestion would have got a planted one.

An item counts as often as it was answered. Disputed items are answered more often, which is the same in both arms but
not for a model, who judges each once: compare with a model by `gain_over_model`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from poise.annotate.joint.intervals import Bools, Estimate, Ints, difference, relative_fall, share


class Trial(NamedTuple):
    """N answers to one variable; values are numbered from 0, -1 is unknown.

    Args:
        item, rater: [N].
        shown: [N] a suggestion was on the page before this answer.
        planted: [N] the suggestion, shown or withheld, was wrong on purpose.
        answer: [N] never -1.
        suggestion: [N] shown or withheld; -1 where the model had said nothing.
        before: [N] the same person's blind answer, for answers after a reveal.
        truth: [N] what the adjudicator decided; -1 for items outside the reference.
    """

    item: Ints
    rater: Ints
    shown: Bools
    planted: Bools
    answer: Ints
    suggestion: Ints
    before: Ints
    truth: Ints

    def of(self, rows: Bools) -> Trial:
        """The answers where `rows[N]` is true."""
        return self._replace(**{name: column[rows] for name, column in self._asdict().items()})

    @property
    def follows(self) -> Bools:
        """[N] the answer is the suggestion."""
        return np.asarray(self.answer == self.suggestion)

    @property
    def right(self) -> Bools:
        """[N] the answer is the truth."""
        return np.asarray(self.answer == self.truth)


def accuracy(trial: Trial, *, shown: bool) -> Estimate:
    """P(answer = truth): of people alone (control arm and blind answers), or of the joint answers."""
    some = trial.of((trial.shown == shown) & ~trial.planted & (trial.truth >= 0))
    return share(some.right, some.item)


def gain(trial: Trial) -> Estimate:
    """P(answer = truth | shown) - P(answer = truth | not shown): what the suggestion does to accuracy."""
    known = trial.of(~trial.planted & (trial.truth >= 0) & (trial.suggestion >= 0))
    one, zero = known.of(known.shown), known.of(~known.shown)
    return difference(one.right, one.item, zero.right, zero.item)


def gain_over_model(trial: Trial) -> Estimate:
    """P(answer = truth | shown) - P(suggestion = truth | shown), on the same answers: what people add to the model."""
    known = trial.of(trial.shown & ~trial.planted & (trial.truth >= 0) & (trial.suggestion >= 0))
    return difference(known.right, known.item, np.asarray(known.suggestion == known.truth), known.item)


def override(trial: Trial, *, right: bool) -> Estimate:
    """P(answer is not the suggestion | shown, the suggestion is right, or wrong).

    Of wrong suggestions it should be high, of right ones low.
    """
    some = _judged(trial, right=right)
    some = some.of(some.shown)
    return share(~some.follows, some.item)


def automation_bias(trial: Trial) -> Estimate:
    """P(answer = suggestion | suggestion wrong, shown) - P(answer = that same value | suggestion wrong, not shown).

    The errors of commission that the suggestion causes (Goddard, Roudsari and Wyatt, 2012, JAMIA 19(1), review what is
    called automation bias); people who err by themselves in the same way are taken off by the second term. Errors of
    omission do not arise: every item is answered.
    """
    some = _judged(trial, right=False)
    one, zero = some.of(some.shown), some.of(~some.shown)
    return difference(one.follows, one.item, zero.follows, zero.item)


def pull(trial: Trial) -> Estimate:
    """Of answers that would not have been a wrong suggestion, the share that it pulled over.

    1 - P(answer is not the suggestion | wrong, shown) / P(answer is not that value | wrong, not shown). Where people
    take a suggestion unread with probability b and otherwise answer as always, this is b.
    """
    some = _judged(trial, right=False)
    one, zero = some.of(some.shown), some.of(~some.shown)
    return relative_fall(one.follows, one.item, zero.follows, zero.item)


def shift(trial: Trial) -> Estimate:
    """P(answer = suggestion | shown) - P(answer = suggestion | not shown), on all items, right or wrong.

    Needs no adjudication. It is also how much the model's agreement with people is inflated where they saw it first
    (arXiv 2507.15821 found such inflation).
    """
    some = trial.of(~trial.planted & (trial.suggestion >= 0))
    one, zero = some.of(some.shown), some.of(~some.shown)
    return difference(one.follows, one.item, zero.follows, zero.item)


def planted(trial: Trial) -> tuple[Estimate, Estimate]:
    """P(answer = planted value | shown), and that minus the same where it was drawn but withheld.

    Reliance on plants: wrong suggestions on clear items (arXiv 2509.08514 measured acceptance of wrong ones so).
    Needs no adjudication: a clear item is one on which all agreed before, which is not proof.
    """
    some = trial.of(trial.planted)
    one, zero = some.of(some.shown), some.of(~some.shown)
    return share(one.follows, one.item), difference(one.follows, one.item, zero.follows, zero.item)


def ai_reliance(trial: Trial) -> Estimate:
    """P(answer right after the reveal | blind answer wrong, suggestion right): relative AI reliance (arXiv 2302.02187).

    Only `blind_then_reveal` has a blind answer of the same person.
    """
    some = _judged(trial, right=True)
    some = some.of((some.before >= 0) & (some.before != some.truth))
    return share(some.right, some.item)


def self_reliance(trial: Trial) -> Estimate:
    """P(answer right after the reveal | blind answer right, suggestion wrong): relative self-reliance (2302.02187)."""
    some = _judged(trial, right=False)
    some = some.of((some.before >= 0) & (some.before == some.truth))
    return share(some.right, some.item)


def _judged(trial: Trial, *, right: bool) -> Trial:
    """Answers about reference items whose suggestion was right, or wrong, and not planted."""
    known = (trial.truth >= 0) & (trial.suggestion >= 0) & ~trial.planted
    return trial.of(known & ((trial.suggestion == trial.truth) == right))
