"""Inspection: batches of labels, and who inspects which of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006_inspection"
down_revision = "0005_quality"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add both tables."""
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("at_ms", ID, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "batch_item",
        sa.Column("batch", ID, nullable=False),
        sa.Column("item", ID, nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("version", ID, nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("draw", ID, nullable=False),
        sa.Column("drawn", sa.Boolean(), nullable=False),
        sa.Column("rater", ID, nullable=True),
        sa.ForeignKeyConstraint(["batch"], ["batch.id"]),
        sa.ForeignKeyConstraint(["item"], ["item.id"]),
        sa.ForeignKeyConstraint(["rater"], ["rater.id"]),
        sa.PrimaryKeyConstraint("batch", "item"),
    )
    op.create_index("batch_item_drawn", "batch_item", ["drawn", "batch"])
    op.create_index("batch_item_rater", "batch_item", ["item", "rater"])
