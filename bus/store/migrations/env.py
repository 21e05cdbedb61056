"""Runs migrations inside one write transaction, so that two processes cannot upgrade at once."""

from alembic import context
from sqlalchemy import text

from bus.store.indexes import SCHEMA

database = context.config.attributes["database"]
with database.write() as connection:
    if not database.is_sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(7226291033)"))
    context.configure(connection=connection, target_metadata=SCHEMA, transactional_ddl=False)
    with context.begin_transaction():
        context.run_migrations()
