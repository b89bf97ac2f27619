"""What Alembic runs: the steps, on the connection that `poise.annotate.store.database` hands over."""

from __future__ import annotations

from alembic import context

from poise.annotate.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=False
)
context.run_migrations()
