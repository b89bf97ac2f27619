"""Quality control: gold items, hidden checks and who got them; a text that is read again counts again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_quality"
down_revision = "0004_joint"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

CURRENT_CHECK = """
create view current_check as
select seq, item, question, rater, value, client_ms, at_ms
from event where kind = 'check'
and not exists (select 1 from event undone where undone.target = event.seq)
and not exists (
    select 1 from event later
    where later.item = event.item and later.question = event.question and later.rater = event.rater
    and later.seq > event.seq and later.kind = 'check'
    and not exists (select 1 from event undone where undone.target = later.seq))
"""
"""What each rater says now in answer to a hidden check; nothing that becomes data reads it."""


def upgrade() -> None:
    """Add everything."""
    op.add_column("lease", sa.Column("probe", sa.Text(), nullable=True))
    op.create_index(
        "event_checked",
        "event",
        ["item", "question", "rater", "seq"],
        sqlite_where=sa.text("kind = 'check'"),
        postgresql_where=sa.text("kind = 'check'"),
    )
    op.execute(CURRENT_CHECK)
    _checks()
    _exposure()


def _checks() -> None:
    op.create_table(
        "gold",
        sa.Column("item", ID, nullable=False),
        sa.Column("answers", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=True),
        sa.Column("data", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", ID, nullable=False),
        sa.Column("history", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("item"),
    )
    op.create_table(
        "probe",
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("given_ms", ID, nullable=False),
        sa.Column("answered", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("item", "rater"),
    )
    op.create_index("probe_rater", "probe", ["rater", "answered"])
    op.create_table(
        "turn",
        sa.Column("rater", ID, nullable=False),
        sa.Column("given", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("rater"),
    )


def _exposure() -> None:
    """Make the table anew, since its key grows, with what is in it."""
    op.drop_index("exposure_day", "exposure")
    op.rename_table("exposure", "exposure_before")
    op.create_table(
        "exposure",
        sa.Column("rater", ID, nullable=False),
        sa.Column("item", ID, nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.Column("severe", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("rater", "item", "again"),
    )
    op.create_index("exposure_day", "exposure", ["rater", "day"])
    op.execute(
        "insert into exposure (rater, item, again, day, at_ms, severe) "
        "select rater, item, false, day, at_ms, severe from exposure_before"
    )
    op.drop_table("exposure_before")
