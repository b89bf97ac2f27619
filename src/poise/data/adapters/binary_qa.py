"""One prompt, one response, one flag: is the response safe?

The format of BeaverTails (its categories are another taxonomy and are left out), of the single-answer samples of
PKU-SafeRLHF, and, with the flag turned round, of most jailbreak collections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from poise.data.adapters.build import Builder, Line, RowDroppedError

SAFE_FLAG: Mapping[object, bool] = {True: True, False: False}
HARM_FLAG: Mapping[object, bool] = {True: False, False: True}


@dataclass(frozen=True)
class BinaryQA:
    """Adapter for `prompt`, `response` and a flag column.

    Args:
        flag: name of the flag column.
        safe: flag value -> safe; a value that is not there drops the row.
    """

    flag: str
    safe: Mapping[object, bool]

    def __call__(self, out: Builder, line: Line) -> None:
        value = line.get(self.flag)
        if not isinstance(value, (bool, int, float)) or value not in self.safe:
            raise RowDroppedError(f"{self.flag} {value!r} tells neither safe nor unsafe")
        answer = out.qa(line.text("prompt"), line.text("response"))
        out.judge(answer.id, "safe", self.safe[value])
