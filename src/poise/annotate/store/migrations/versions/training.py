"""Tables of the training rounds and of the blind votes of adjudicators."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_training"
down_revision = "0002_accounts"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "training_round",
        sa.Column("rater", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("items", sa.Text(), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("at_ms", ID, nullable=False),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("rater", "number"),
    )
    op.create_table(
        "training_answer",
        sa.Column("rater", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.ForeignKeyConstraint(["rater", "number"], ["training_round.rater", "training_round.number"]),
        sa.PrimaryKeyConstraint("rater", "number", "item"),
    )
    op.create_table(
        "blind_vote",
        sa.Column("item", ID, nullable=False),
        sa.Column("rater", ID, nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("item", "rater", "question"),
    )
