"""Make and upgrade the tables with Alembic, on both databases."""

from __future__ import annotations

from importlib import resources

from sqlalchemy import inspect, text

from bus.errors import NotAvailable
from bus.private_files import make_private_file, make_private_folder
from bus.store.engine import Database


def upgrade(database: Database) -> None:
    """Bring the tables to this release's revision; safe to call again and from several processes at once."""
    # Imported here: every command asks for the revision, and Alembic takes as long to import as most take to answer.
    from alembic import command
    from alembic.config import Config

    if database.is_sqlite:
        try:
            make_private_folder(database.path.parent)
            make_private_file(database.path)  # SQLite would make it for everybody; its journals get the file's mode
        except OSError as error:
            raise NotAvailable(f"the store {database.path} cannot be made: {error.strerror}") from error
    config = Config()
    config.set_main_option("script_location", str(resources.files("bus.store") / "migrations"))
    config.attributes["database"] = database
    command.upgrade(config, "head")


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
    if current != needed:
        raise NotAvailable(
            f"the store is at revision {current or 'none'}, this release needs {needed}; run: bus store upgrade"
        )
