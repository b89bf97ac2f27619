"""The logical order between two responses to one prompt.

If exactly one response of a pair is safe, it is the safer one (PKU-SafeRLHF section 3; Safe RLHF). Nothing else
is forced: two safe or two unsafe responses may be ranked either way, and helpfulness is never touched by safety.
"""

from __future__ import annotations

from typing import Protocol


class SafeOrNot(Protocol):
    """What the order looks at: a `Label`, or anything else that knows whether it is safe."""

    @property
    def safe(self) -> bool:
        """True when nothing harmful was found."""
        ...


def decided_safer(label_0: SafeOrNot, label_1: SafeOrNot) -> int | None:
    """Response id (0 or 1) that the logical order makes safer, or None when people or models must decide."""
    if label_0.safe == label_1.safe:
        return None
    return 0 if label_0.safe else 1


def violates_order(label_0: SafeOrNot, label_1: SafeOrNot, safer: int) -> bool:
    """True when `safer` names the unsafe response of a pair that has exactly one safe response."""
    decided = decided_safer(label_0, label_1)
    return decided is not None and decided != safer
