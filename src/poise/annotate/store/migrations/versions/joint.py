"""People and models together: what was shown to whom, leases after a blind answer, and the judgements that count."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_joint"
down_revision = "0003_training"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_COUNTS = '({0}.shown is null or {0}.shown not like \'{{"arm":"planted",%\')'
COUNTED_JUDGEMENT = f"""
create view counted_judgement as
select seq, kind, item, question, rater, value, pins, policy, guideline, reason, shown, client_ms, at_ms
from event where kind in ('judge', 'import') and {_COUNTS.format("event")}
and not exists (select 1 from event undone where undone.target = event.seq)
and not exists (
    select 1 from event later
    where later.item = event.item and later.question = event.question and later.rater = event.rater
    and later.seq > event.seq and later.kind in ('judge', 'import') and {_COUNTS.format("later")}
    and not exists (select 1 from event undone where undone.target = later.seq))
"""
"""What each rater says now, without what was said after a planted suggestion was shown. The log is canonical JSON, so
`arm` stands first in it, and nothing that a page adds can look like it."""


def upgrade() -> None:
    """Add them."""
    op.add_column("lease", sa.Column("revealed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "showing",
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("clear", sa.Boolean(), nullable=False),
        sa.Column("planted", sa.Boolean(), nullable=False),
        sa.Column("source", ID, nullable=False),
        sa.Column("pins", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.ForeignKeyConstraint(["source"], ["event.seq"]),
        sa.PrimaryKeyConstraint("item", "rater", "question"),
    )
    op.execute(COUNTED_JUDGEMENT)
