"""Make and upgrade the tables with Alembic, on both databases."""

from __future__ import annotations

from datetime import timedelta
from importlib import resources

from sqlalchemy import inspect, select, text

from bus.errors import NotAvailable
from bus.model.lease import LEASE
from bus.private_files import make_private_file, make_private_folder
from bus.store import tables as t
from bus.store.engine import Database


def upgrade(database: Database, *, lease: timedelta = LEASE) -> None:
    """Bring the tables to this release's revision; safe to call again and from several processes at once.

    Raises:
        NotAvailable: a newer release made the tables, or somebody works with the old ones: who beat within `lease`.
    """
    # Imported here: every command asks for the revision, and Alembic takes as long to import as most take to answer.
    from alembic import command
    from alembic.config import Config

    if database.is_sqlite:
        try:
            make_private_folder(database.path.parent)
            make_private_file(database.path)  # SQLite would make it for everybody; its journals get the file's mode
        except OSError as error:
            raise NotAvailable(f"the store {database.path} cannot be made: {error.strerror}") from error
    _require_upgradable(database, lease)
    config = Config()
    config.set_main_option("script_location", str(resources.files("bus.store") / "migrations"))
    config.attributes["database"] = database
    command.upgrade(config, "head")


def _require_upgradable(database: Database, lease: timedelta) -> None:
    current, needed = revisions(database)
    if current is None or current == needed:
        return
    _require_known(current, needed)
    with database.read() as connection:
        seen = database.now(connection) - lease
        holders = select(t.lease.c.holder).where(t.lease.c.beat_at > seen).order_by(t.lease.c.name)
        at_work = list(connection.execute(holders).scalars())
    if at_work:
        raise NotAvailable(
            f"the store is at revision {current} and its tables are in use: {', '.join(at_work)}. Stop every router, "
            f"worker and relay of the release before; a killed one counts for {lease.total_seconds():.0f} s more. Then "
            "repeat: bus store upgrade"
        )


def _require_known(current: str, needed: str) -> None:
    if current > needed:
        raise NotAvailable(
            f"the store is at revision {current}, made by a newer release; this one knows {needed}. Start the newer "
            "release here, or go back to a backup from before its upgrade"
        )


def revisions(database: Database) -> tuple[str | None, str]:
    """(revision the store is at, revision this release needs): the numbers that the migrations' files begin with."""
    with database.read() as connection:
        current = None
        if inspect(connection).has_table("alembic_version"):
            current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    files = (resources.files("bus.store") / "migrations" / "versions").iterdir()
    return current, max(file.name.partition("_")[0] for file in files if file.name[:1].isdecimal())


def require_current(database: Database) -> None:
    """Refuse to work on other tables than this release's.

    Raises:
        NotAvailable: with the command that mends it.
    """
    if database.is_sqlite and not database.path.exists():
        raise NotAvailable(
            f"there is no store at {database.path}. One that exists elsewhere is named by BUS_STORE, or by `store` in "
            "bus.toml (for a kept demo: . .demo/env); a new, empty one is made with: bus store upgrade"
        )
    current, needed = revisions(database)
    _require_known(current or "", needed)
    if current != needed:
        raise NotAvailable(
            f"the store is at revision {current or 'none'}, this release needs {needed}; run: bus store upgrade"
        )
