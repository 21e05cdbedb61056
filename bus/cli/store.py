"""`bus store`: the tables; make or upgrade them, and say what is there."""

from __future__ import annotations

from typing import Any

import rich_click as click
from click import get_current_context
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import NOT_AVAILABLE, OK, BusGroup
from bus.cli.texts import when
from bus.model.shown_url import shown_url

NOT_FOR_REGULATED_USE = (
    "SQLite is for trying, testing and small plants: anybody who can read its file can change history. "
    "Not for regulated use; take PostgreSQL there."
)


@click.group(cls=BusGroup)
def store() -> None:
    """The message store: make or upgrade its tables, see what it is."""


@store.command()
def upgrade() -> None:
    """Make the tables, or bring them to this release; safe to repeat."""
    from bus.bootstrap import open_database, upgrade_store
    from bus.store import schema

    work = desk()
    database = open_database(work.project)
    before = schema.revisions(database)[0] if _exists(database) else None
    database.close()
    made = upgrade_store(work.project)
    now = schema.revisions(made.database)[0]
    made.close()
    value = {"before": before, "now": now, "changed": before != now}
    text = (
        f"The store was at revision {before or 'none'} and is at {now} now"
        if before != now
        else f"The store is at revision {now}: nothing to do"
    )
    work.out.one(value, lambda: [Text(text)])


@store.command()
def info() -> int:
    """Where the store is, its revision, its clock, and how much is in it."""
    from bus.bootstrap import open_database
    from bus.store import schema

    work = desk()
    database = open_database(work.project)
    get_current_context().call_on_close(database.close)
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    value: dict[str, Any] = {
        "address": shown_url(database.url.render_as_string(hide_password=False)),
        "kind": kind,
    }
    exists = _exists(database)
    if exists:
        current, needed = schema.revisions(database)
        value |= {"revision": current, "needed": needed}
        exists = current == needed
        if exists:
            value |= _contents(work)
    work.out.one(value, lambda: [work.out.fields((name, item) for name, item in value.items())])
    if database.is_sqlite:
        work.out.say(NOT_FOR_REGULATED_USE)
    if not exists:
        work.out.say("Its tables are missing or old; run: bus store upgrade")
    return OK if exists else NOT_AVAILABLE


def _exists(database: Any) -> bool:
    return not database.is_sqlite or bool(database.path.exists())


def _contents(work: Desk) -> dict[str, Any]:
    from bus.store.overview import overview

    found = overview(work.database)
    size: dict[str, Any] = {"clock": when(found.at) if work.out.format == "table" else found.at}
    if work.database.is_sqlite:
        size["bytes"] = work.database.path.stat().st_size
    receipts, messages, deliveries = found.equations
    return {
        **size,
        "received": receipts.whole["received"],
        "messages": sum(messages.whole.values()),
        "deliveries": deliveries.whole["planned"],
    }
