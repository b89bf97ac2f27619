"""Which items a rater may be given: the queries of the queue, for each stage, with and without adjudication.

Hidden checks (`probes`) take nobody's place, and what a rater had as gold or inspected is not given to that rater as
data, nor to decide.
"""

from __future__ import annotations

import sqlalchemy as sa

_WORKED_ON = (
    "(exists (select 1 from event x where x.item = {0} and x.rater = :rater) "
    "or exists (select 1 from lease y where y.item = {0} and y.rater = :rater))"
)
BLIND = {
    "qa": "not exists (select 1 from item s where s.kind = 'single' and s.qa_0 = i.id and "
    + _WORKED_ON.format("s.id")
    + ") and not exists (select 1 from item s where s.kind = 'single' and s.qa_1 = i.id and "
    + _WORKED_ON.format("s.id")
    + ")",
    "pair": "not exists (select 1 from item s where s.kind = 'single' and s.key = i.key and "
    + _WORKED_ON.format("s.id")
    + ")",
    "single": f"not {_WORKED_ON.format('i.qa_0')} and not {_WORKED_ON.format('i.qa_1')} and not exists "
    "(select 1 from item p where p.kind = 'pair' and p.key = i.key and " + _WORKED_ON.format("p.id") + ")",
}
"""Stage -> the condition that keeps the single preference apart from the other stages."""

ALLOWED = """
not exists (select 1 from lease o where o.item = t.item and o.rater = :rater)
and not exists (select 1 from skip k where k.item = t.item and k.rater = :rater)
and not exists (select 1 from opt_out o join hint h on h.category = o.category
    where o.rater = :rater and h.item in (i.id, i.qa_0, i.qa_1))
"""
"""Of a row `t` that names item `i`: not held by the rater, not skipped, and of no category that they opted out of."""

_OPEN = """
select t.item from task t join item i on i.id = t.item
where t.state = 'open' and t.stage = :stage and t.wanted - t.have >
    (select count(*) from lease l where l.item = t.item and not l.adjudicate and not l.revealed and l.probe is null)
and not exists (select 1 from probe p where p.item = t.item and p.rater = :rater and p.kind in ('gold', 'inspect'))
and (select count(*) from current_judgement j where j.item = t.item and j.rater = :rater
    and t.asks like '%"' || j.question || '"%' and (j.pins is null or j.pins =
        (select f.pins from final f where f.item = t.item and f.question = j.question)))
    < (case when t.asks like '%,%' then 2 else 1 end)
and {allowed} and {blind} {more}
"""

_DISPUTED = """
select t.item from task t join item i on i.id = t.item
where t.state = 'adjudicate' and t.stage = :stage
and not exists (select 1 from lease l where l.item = t.item and l.adjudicate)
and not exists (select 1 from current_judgement j where j.item = t.item and j.rater = :rater)
and not exists (select 1 from probe p where p.item = t.item and p.rater = :rater and p.kind = 'inspect')
and {allowed} and {blind} {more}
"""


def _statements(more: str, around: str = "{}") -> dict[tuple[str, bool], sa.TextClause]:
    """(stage, whether to adjudicate) -> a query over what a rater may be given."""
    return {
        (stage, adjudicate): sa.text(
            around.format((_DISPUTED if adjudicate else _OPEN).format(allowed=ALLOWED, blind=blind, more=more))
        )
        for stage, blind in BLIND.items()
        for adjudicate in (False, True)
    }


TAKE = _statements("order by t.priority, t.item limit 1")
TAKE_THIS = _statements("and t.item = :item")
COUNT = _statements("limit :most", "select count(*) from ({}) as waiting")
