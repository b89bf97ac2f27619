"""Statistics of pairs: states, better against safer, what separates `safer`, the overall choice, bias probes."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from poise.data.audit.count import NONE, Counts
from poise.data.audit.labels import BITS, Ints, Labels
from poise.data.audit.shares import Json, share, share_of
from poise.data.audit.tally import Tally


class Pairs(NamedTuple):
    """M different kinds of pairs, each standing for `n` rows; ids are 0, 1, or 2 for neither; each (M,)."""

    first: Labels
    second: Labels
    better: Ints
    safer: Ints
    longer: Ints
    disclaimer: Ints
    n: Ints

    @classmethod
    def of(cls, tally: Tally) -> Self:
        """Read what `pair_code` made."""
        codes, n = tally.found()
        mask = (1 << BITS) - 1
        better, safer, longer, disclaimer = (codes >> (2 * BITS + 2 * place) & 3 for place in range(4))
        labels = Labels.of(codes & mask), Labels.of(codes >> BITS & mask)
        return cls(*labels, better, safer, longer, disclaimer, n)


def pair_counts(pairs: Pairs, repeats: tuple[int, int] | None) -> Json:
    """States, better against safer, and pairs that call the unsafe of two responses safer.

    Args:
        repeats: (pairs whose two responses were there before, pairs compared), None where nothing can be compared.
    """
    known = pairs.first.safe_known & pairs.second.safe_known
    safe = pairs.first.safe.astype(np.int64) + pairs.second.safe
    better, safer = pairs.better != NONE, pairs.safer != NONE
    mixed = known & (safe == 1) & safer
    order = mixed & (pairs.safer != np.where(pairs.first.safe, 0, 1))
    return {
        "pairs": int(pairs.n.sum()),
        "judged_better": int(pairs.n[better].sum()),
        "judged_safer": int(pairs.n[safer].sum()),
        "states": {
            name: share_of(safe == number, known, pairs.n)
            for name, number in (("both_safe", 2), ("mixed", 1), ("both_unsafe", 0))
        },
        "better_is_not_safer": share_of(pairs.better != pairs.safer, better & safer, pairs.n),
        "order_violations": {"count": int(pairs.n[order].sum()), "of": int(pairs.n[mixed].sum())}
        if mixed.any()
        else None,
        "repeated_pairs": None if repeats is None else {"count": repeats[0], "of": repeats[1]},
    }


RUNGS = ("no recorded difference", "only categories differ", "severity differs", "one is safe, one is not")


def ladder(pairs: Pairs) -> list[Json] | None:
    """What separates the two responses; asked first is the strongest difference: boundary, severity, categories.

    Of pairs whose labels are all known. `to_expected`: of those with a judged `safer`, the share where it is the safe
    one, or the less severe one; the two lower rungs have no expected side.
    """
    a, b = pairs.first, pairs.second
    complete = a.complete & b.complete
    if not complete.any():
        return None
    boundary, severity = a.safe != b.safe, a.severity != b.severity
    rung = np.where(boundary, 3, np.where(severity, 2, (a.flags != b.flags).any(axis=1)))
    expected = np.where(boundary, np.where(a.safe, 0, 1), np.where(a.severity < b.severity, 0, 1))
    judged = complete & (pairs.safer != NONE)
    return [
        {
            "rung": name,
            **(share_of(rung == place, complete, pairs.n) or {}),
            "to_expected": share_of(pairs.safer == expected, judged & (rung == place), pairs.n) if place > 1 else None,
        }
        for place, name in enumerate(RUNGS)
    ]


def dual_and_single(single: Tally) -> Json | None:
    """The overall choice beside the two judged apart, on pairs that have all three."""
    codes, n = single.found()
    better, safer, safe_one, choice = (codes >> 2 * place & 3 for place in range(4))
    whole = (better != NONE) & (safer != NONE) & (choice != NONE)
    if not whole.any():
        return None
    conflict, agree = whole & (better != safer), whole & (better == safer)
    boundary = conflict & (safe_one != NONE)
    return {
        "matched": int(n[whole].sum()),
        "conflicts": int(n[conflict].sum()),
        "conflict_share": share_of(conflict, whole, n),
        "follows_better": share_of(choice == better, conflict, n),
        "follows_safer": share_of(choice == safer, conflict, n),
        "picks_safe_at_boundary": share_of(choice == safe_one, boundary, n),
        "contradicts_both": share_of(choice != better, agree, n),
    }


def probes(pairs: Pairs | None, counts: Counts) -> Json:
    """Does length, position or a disclaimer go with being chosen? Ties in length are left out.

    The disclaimer probe asks pairs of two unsafe responses of which exactly one has a disclaimer.
    """
    found: Json = {}
    for name in ("better", "safer"):
        if pairs is None:
            found |= dict.fromkeys((f"first_is_{name}", f"longer_is_{name}", f"disclaimer_is_{name}_of_two_unsafe"))
            continue
        vote = pairs.better if name == "better" else pairs.safer
        judged, longer, warned = vote != NONE, pairs.longer != NONE, pairs.disclaimer != NONE
        found[f"first_is_{name}"] = share_of(vote == 0, judged, pairs.n)
        found[f"longer_is_{name}"] = share_of(vote == pairs.longer, judged & longer, pairs.n)
        found[f"disclaimer_is_{name}_of_two_unsafe"] = share_of(vote == pairs.disclaimer, judged & warned, pairs.n)
    codes, n = counts.single_shape.found()
    choice, longer = codes & 3, codes >> 2 & 3
    found["first_is_single"] = share_of(choice == 0, choice != NONE, n)
    found["longer_is_single"] = share_of(choice == longer, (choice != NONE) & (longer != NONE), n)
    unsafe, refused = next(iter(counts.refusals.values()), (0, 0))
    found["refusals_among_unsafe"] = share(refused, unsafe)
    return found
