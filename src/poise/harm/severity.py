"""How bad a response is: four ordered levels (PKU-SafeRLHF, data card)."""

from __future__ import annotations

from enum import IntEnum


class Severity(IntEnum):
    """Severity of a prompt-response pair, 0..3; higher is worse and 0 means safe."""

    NONE = 0
    MINOR = 1
    MODERATE = 2
    SEVERE = 3

    @classmethod
    def parse(cls, value: object) -> Severity:
        """Read a level from its integer or its name in any case.

        Raises:
            ValueError: the value names no level.
        """
        if isinstance(value, str) and value.strip().upper() in cls.__members__:
            return cls[value.strip().upper()]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 3:
            return cls(value)
        raise ValueError(f"severity {value!r} is not one of 0..3 or none, minor, moderate, severe")

    @property
    def label(self) -> str:
        """The lower-case name used in files and pages."""
        return self.name.lower()
