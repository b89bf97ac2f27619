"""How far the work is: tasks by stage and state, judgements by kind of rater, and how often rule 4 was used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from poise.annotate.store.log import parsed
from poise.annotate.store.store import AnnotationStore

_MORE_SEVERE = """
select j.value, a.value as label_0, b.value as label_1 from current_judgement j
join item i on i.id = j.item join rater r on r.id = j.rater
join final f on f.item = j.item and f.question = 'safer' and f.pins = j.pins
join final a on a.item = i.qa_0 and a.question = 'label' join final b on b.item = i.qa_1 and b.question = 'label'
where j.question = 'safer' and r.kind <> 'rule' and j.value is not null
"""


_SAID = """
select rater, question, count(*) as n from (select distinct item, question, rater from event) t group by rater, question
"""
"""Who has said anything about what: read from an index alone, since a store has a million events."""
_NOTHING_STANDS = """
select r.kind, t.question, count(*) as n from (
    select item, question, rater from event where kind = 'adjudicate'
    union select item, question, rater from event where kind = 'check'
    union select e.item, e.question, e.rater from event u join event e on e.seq = u.target where u.target is not null
) t join rater r on r.id = t.rater
where not exists (select 1 from current_judgement j
    where j.item = t.item and j.question = t.question and j.rater = t.rater)
group by r.kind, t.question
"""
"""Those of them whose answers were all taken back, or who only adjudicated or answered checks."""


@dataclass(frozen=True)
class Status:
    """Counts of a store at one moment.

    Args:
        tasks: (stage, state) -> tasks.
        judgements: (kind of rater, question) -> what raters say now.
        leases: tasks that somebody holds.
        stale: pairs whose "safer" was judged under labels that have changed since.
        decided_by_order: pairs whose "safer" follows from the labels.
        differing: current answers to "safer" about pairs whose severities differ, ties left out.
        more_severe: those of them that call the more severe response the safer one (rule 4).
        events, head: of the log.
    """

    tasks: dict[tuple[str, str], int]
    judgements: dict[tuple[str, str], int]
    leases: int
    stale: int
    decided_by_order: int
    differing: int
    more_severe: int
    events: int
    head: str | None


def status(store: AnnotationStore) -> Status:
    """Count everything in one reading transaction."""
    now = {"now": store.now_ms()}
    with store.database.read() as db:

        def number(query: str) -> int:
            return int(db.execute(sa.text(query), now if ":now" in query else {}).scalar() or 0)

        tasks = db.execute(sa.text("select stage, state, count(*) as n from task group by stage, state order by 1, 2"))
        kinds = {row.id: row.kind for row in db.execute(sa.text("select id, kind from rater"))}
        said = Counter[tuple[str, str]]()
        for row in db.execute(sa.text(_SAID)):
            said[kinds[row.rater], row.question] += row.n
        said.subtract({(row.kind, row.question): row.n for row in db.execute(sa.text(_NOTHING_STANDS))})
        head = db.execute(sa.text("select seq, hash from event order by seq desc limit 1")).first()
        differing, more_severe = _rule_4(db)
        return Status(
            tasks={(row.stage, row.state): row.n for row in tasks},
            judgements={what: said[what] for what in sorted(said) if said[what]},
            leases=number("select count(*) from lease where expires_ms > :now"),
            stale=number("select count(*) from task where stale"),
            decided_by_order=number("select count(*) from final where source = 'order'"),
            differing=differing,
            more_severe=more_severe,
            events=head.seq if head else 0,
            head=head.hash if head else None,
        )


def _rule_4(db: sa.Connection) -> tuple[int, int]:
    differing = more_severe = 0
    for row in db.execution_options(yield_per=2000).execute(sa.text(_MORE_SEVERE)).mappings():
        choice = parsed(row["value"])["choice"]
        levels = [parsed(row[name])["severity"] for name in ("label_0", "label_1")]
        if choice in (0, 1) and levels[0] != levels[1]:
            differing += 1
            more_severe += levels[choice] > levels[1 - choice]
    return differing, more_severe
