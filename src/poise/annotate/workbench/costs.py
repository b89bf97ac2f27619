"""What the answers of model raters took, from the stores of replies that `poise annotate label` and `rank` keep.

Tokens are as the servers counted them; replies without a count are told apart, never guessed. Money needs prices, which
are the user's own. Replies that a store holds for other work than labelling count too: it does not tell them apart.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from poise.errors import PoiseError
from poise.llm.budget import Price

_SPENT = """
select json_extract(request, '$.model') as model, count(*), sum(state = 'done'), sum(coalesce(prompt_tokens, 0)),
    sum(coalesce(completion_tokens, 0)), sum(prompt_tokens is null), avg(latency_s)
from exchanges group by model order by model
"""


@dataclass(frozen=True)
class Spent:
    """What one model took.

    Args:
        requests, done: finished requests, and those of them that gave an answer in the shape asked for.
        prompt_tokens, completion_tokens: as counted by the server.
        uncounted: requests without a count.
        latency_s: mean, None where none was recorded.
        cost: in the currency of the prices; None without a price for this model.
    """

    model: str
    requests: int
    done: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    latency_s: float | None
    cost: float | None


def spent(replies: Iterable[Path], prices: Mapping[str, Price] | None = None) -> list[Spent]:
    """One line for each model of each store of replies, which may be in use meanwhile.

    Raises:
        PoiseError: no such file, or no store of replies.
    """
    found = []
    for path in replies:
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
                rows = db.execute(_SPENT).fetchall()
        except sqlite3.Error as error:
            raise PoiseError(f"no store of replies ({error})", where=str(path), do="name another file") from error
        for model, requests, done, prompt, completion, uncounted, latency in rows:
            price = (prices or {}).get(model)
            cost = None if price is None else (prompt * price.prompt + completion * price.completion) / 1e6
            found.append(Spent(model, requests, done, prompt, completion, uncounted, latency, cost))
    return found
