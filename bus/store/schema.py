"""Make and upgrade the tables with Alembic, on both databases."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from bus.errors import NotAvailable
from bus.store.engine import Database


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("bus.store") / "migrations"))
    config.attributes["database"] = database
    return config


def upgrade(database: Database) -> None:
    """Bring the tables to this release's revision; safe to call again and from several processes at once."""
    if database.is_sqlite:
        database.path.parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(_config(database), "head")


def revisions(database: Database) -> tuple[str | None, str]:
    """(revision the store is at, revision this release needs)."""
    script = ScriptDirectory.from_config(_config(database))
    with database.read() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current, script.get_current_head() or ""


def require_current(database: Database) -> None:
    """Refuse to work on other tables than this release's.

    Raises:
        NotAvailable: with the command that mends it.
    """
    if database.is_sqlite and not database.path.exists():
        raise NotAvailable(f"there is no store at {database.path} yet; make it with: bus store upgrade")
    current, needed = revisions(database)
    if current != needed:
        raise NotAvailable(
            f"the store is at revision {current or 'none'}, this release needs {needed}; run: bus store upgrade"
        )
