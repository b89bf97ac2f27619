"""The tables of the workbench: who may sign in, who is signed in, invitations, and what each person has read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002_accounts"
down_revision = "0001"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "account",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("preferences", sa.Text(), nullable=False),
        sa.Column("break_ms", ID, nullable=False),
        sa.Column("made_ms", ID, nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("rater"),
        sa.UniqueConstraint("token_hash"),
    )
    op.create_table(
        "session",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("account", ID, nullable=False),
        sa.Column("expires_ms", ID, nullable=False),
        sa.Column("warned", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["account"], ["account.id"]),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index("session_account", "session", ["account"])
    op.create_table(
        "invitation",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("expires_ms", ID, nullable=False),
        sa.Column("used_ms", ID, nullable=True),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "exposure",
        sa.Column("rater", ID, nullable=False),
        sa.Column("item", ID, nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.Column("severe", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.PrimaryKeyConstraint("rater", "item"),
    )
    op.create_index("exposure_day", "exposure", ["rater", "day"])
