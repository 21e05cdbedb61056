"""`bus store`: the tables; make or upgrade them, say what is there, list the months and retire old ones."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich_click as click
from click import get_current_context
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, NOT_AVAILABLE, OK, BusGroup, reason
from bus.cli.output import WIDE, Column
from bus.cli.texts import plain, size, when
from bus.model.shown_url import shown_url

if TYPE_CHECKING:
    from bus.store.months import Month

NOT_FOR_REGULATED_USE = (
    "SQLite is for trying, testing and small plants: anybody who can read its file can change history. "
    "Not for regulated use; take PostgreSQL there."
)


@click.group(cls=BusGroup)
def store() -> None:
    """The message store: make or upgrade its tables, see what it is, drop months that are old enough."""


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


# --- months ----------------------------------------------------------------------------------------------------------


class MonthName(click.ParamType[str]):
    """A month as `bus store partitions` shows it."""

    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return f"{datetime.strptime(value, '%Y-%m'):%Y-%m}"  # noqa: DTZ007  # a month has no zone
        except ValueError:
            self.fail(f"{plain(value)!r} is not a month: 2026-01, say")


@store.command()
def partitions() -> None:
    """The months that the store keeps: rows, size, what is not ended; and what was retired, by whom and why."""
    from bus.store.months import months
    from bus.store.views import COUNTED

    work = desk()
    found = months(work.database)
    work.out.items(
        found,
        *_MONTH,
        Column("State", lambda m: m.state),
        Column(
            "Not ended", lambda m: Text(f"{m.not_ended:,}{'' if m.not_ended < COUNTED else ' or more'}"), right=True
        ),
        Column("Retired", lambda m: m.retired_at, room=WIDE),
        Column("By", lambda m: m.actor),
        Column("Why", lambda m: m.reason),
        empty="",
    )
    if work.database.is_sqlite:
        work.out.say("SQLite keeps everything in one file: no month is closed, none can be retired.")


@store.command()
@click.option("--before", required=True, type=MonthName(), metavar="MONTH", help="Months before this one: 2026-01.")
@reason
@click.option("--yes", is_flag=True, help="Drop them; without it is only shown what would be dropped.")
def retire(before: str, reason: str, yes: bool) -> int:
    """Drop closed months for good, and note what was in them. Exit code 1 where something not ended holds one."""
    from bus.control.actor import person
    from bus.store.retention import candidates, held_text
    from bus.store.retention import retire as retire_month

    work = desk()
    actor = person(reason)
    found = candidates(work.database, before=before)
    results: list[dict[str, Any]] = []
    for candidate in found:
        result = "held" if candidate.held_by else "dropped" if yes else "would be dropped"
        if result == "dropped":
            retire_month(work.database, candidate.month.period, actor=actor)
        results.append({"result": result, "held_by": candidate.held_by, "month": candidate.month})
    work.out.items(
        results,
        *(Column(c.title, lambda r, c=c: c.value(r["month"]), right=c.right) for c in _MONTH),  # type: ignore[misc]  # bound now, called now
        Column("Result", lambda r: Text(r["result"], style=_STYLES[r["result"]])),
        empty=f"No closed month before {before} is kept; see: bus store partitions",
    )
    for candidate in found:
        if candidate.held_by:
            work.out.say(held_text(candidate.month.name, candidate.held_by))
    if not yes and any(not candidate.held_by for candidate in found):
        work.out.say("Nothing was dropped. To drop it for good, add --yes")
    return FOUND_BAD if any(candidate.held_by for candidate in found) else OK


def _rows(count: int, month: Month) -> Text:
    return Text(f"{'' if month.is_exact else 'about '}{count:,}", no_wrap=True)


_MONTH = (
    Column("Month", lambda m: Text(m.name, no_wrap=True)),
    Column("Messages", lambda m: _rows(m.messages, m), right=True),
    Column("Deliveries", lambda m: _rows(m.deliveries, m), right=True),
    Column("Size", lambda m: Text(size(m.bytes) if m.bytes else "", no_wrap=True), right=True),
)
_STYLES = {"held": "red", "dropped": "green", "would be dropped": "yellow"}


def _exists(database: Any) -> bool:
    return not database.is_sqlite or bool(database.path.exists())


def _contents(work: Desk) -> dict[str, Any]:
    from bus.store.overview import overview

    found = overview(work.database)
    contents: dict[str, Any] = {"clock": when(found.at) if work.out.format == "table" else found.at}
    if work.database.is_sqlite:
        contents["bytes"] = work.database.path.stat().st_size
    receipts, messages, deliveries = found.equations
    return {
        **contents,
        "received": receipts.whole["received"],
        "messages": sum(messages.whole.values()),
        "deliveries": deliveries.whole["planned"],
    }
