"""The first tables, the two views, and the triggers that keep the log append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

CURRENT_JUDGEMENT = """
create view current_judgement as
select seq, kind, item, question, rater, value, pins, policy, guideline, reason, shown, client_ms, at_ms
from event where kind in ('judge', 'import')
and not exists (select 1 from event undone where undone.target = event.seq)
and not exists (
    select 1 from event later
    where later.item = event.item and later.question = event.question and later.rater = event.rater
    and later.seq > event.seq and later.kind in ('judge', 'import')
    and not exists (select 1 from event undone where undone.target = later.seq))
"""
"""What each rater says now: the last answer that was not undone."""

CURRENT_ADJUDICATION = """
create view current_adjudication as
select seq, item, question, rater, value, pins, policy, guideline, reason, shown, client_ms, at_ms
from event where kind = 'adjudicate'
and not exists (select 1 from event undone where undone.target = event.seq)
and not exists (
    select 1 from event later
    where later.item = event.item and later.question = event.question and later.seq > event.seq
    and later.kind = 'adjudicate' and not exists (select 1 from event undone where undone.target = later.seq))
"""
"""What was decided last about each item and question, and not undone."""


def upgrade() -> None:
    """Make everything."""
    _content()
    _log()
    _queue()
    op.execute(CURRENT_JUDGEMENT)
    op.execute(CURRENT_ADJUDICATION)
    _append_only()


def _append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(
                f"create trigger event_no_{verb} before {verb} on event "
                "begin select raise(abort, 'the judgement log is append-only'); end"
            )
        return
    op.execute(
        "create function event_append_only() returns trigger language plpgsql as "
        "$$ begin raise exception 'the judgement log is append-only'; end $$"
    )
    op.execute(
        "create trigger event_append_only before update or delete or truncate on event "
        "for each statement execute function event_append_only()"
    )


def _content() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "edition",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("guidelines", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("policy"),
    )
    op.create_table(
        "text",
        sa.Column("id", ID, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "rater",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "kind", "version"),
    )
    op.create_table(
        "item",
        sa.Column("id", ID, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("prompt", ID, nullable=False),
        sa.Column("response_0", ID, nullable=False),
        sa.Column("response_1", ID, nullable=True),
        sa.Column("qa_0", ID, nullable=True),
        sa.Column("qa_1", ID, nullable=True),
        sa.Column("hash_0", sa.Text(), nullable=False),
        sa.Column("hash_1", sa.Text(), nullable=True),
        sa.Column("thread", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["prompt"], ["text.id"]),
        sa.ForeignKeyConstraint(["qa_0"], ["item.id"]),
        sa.ForeignKeyConstraint(["qa_1"], ["item.id"]),
        sa.ForeignKeyConstraint(["response_0"], ["text.id"]),
        sa.ForeignKeyConstraint(["response_1"], ["text.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "key"),
    )
    op.create_index("item_qa_0", "item", ["qa_0"], unique=False)
    op.create_index("item_qa_1", "item", ["qa_1"], unique=False)
    op.create_index("item_hash", "item", ["hash_0"], unique=False)
    op.create_index("item_thread", "item", ["thread", "kind"], unique=False)


def _log() -> None:
    op.create_table(
        "event",
        sa.Column("seq", ID, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("item", ID, nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("target", ID, nullable=True),
        sa.Column("pins", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("guideline", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("shown", sa.Text(), nullable=True),
        sa.Column("client_ms", ID, nullable=True),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.ForeignKeyConstraint(["target"], ["event.seq"]),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("token", "question"),
    )
    op.create_index("event_current", "event", ["item", "question", "rater", "seq"], unique=False)
    op.create_index("event_rater", "event", ["rater", "item"], unique=False)
    op.create_index("event_target", "event", ["target"], unique=False)
    op.create_index(
        "event_adjudicated",
        "event",
        ["item", "question", "seq"],
        unique=False,
        sqlite_where=sa.text("kind = 'adjudicate'"),
        postgresql_where=sa.text("kind = 'adjudicate'"),
    )
    op.create_table(
        "final",
        sa.Column("item", ID, nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("version", ID, nullable=False),
        sa.Column("pins", sa.Text(), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.Column("cyclic", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("item", "question"),
    )


def _queue() -> None:
    op.create_table(
        "task",
        sa.Column("item", ID, nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("have", sa.Integer(), nullable=False),
        sa.Column("asks", sa.Text(), nullable=False),
        sa.Column("stale", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("item"),
    )
    op.create_index("task_queue", "task", ["state", "stage", "priority", "item"], unique=False)
    op.create_table(
        "lease",
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("expires_ms", ID, nullable=False),
        sa.Column("asks", sa.Text(), nullable=False),
        sa.Column("pins", sa.Text(), nullable=True),
        sa.Column("adjudicate", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("token"),
        sa.UniqueConstraint("item", "rater"),
    )
    op.create_index("lease_rater", "lease", ["rater"], unique=False)
    op.create_table(
        "draft",
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("item", "rater"),
    )
    op.create_table(
        "skip",
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("item", "rater"),
    )
    op.create_table(
        "hint",
        sa.Column("item", ID, nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("item", "category"),
    )
    op.create_table(
        "opt_out",
        sa.Column("rater", ID, nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("rater", "category"),
    )
