"""`bus message`: find messages, look at one, follow one from its first cause to its last effect."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import rich_click as click
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import BusGroup, Instant, more_note, paged
from bus.cli.gaps import gaps, normal_subject
from bus.cli.message_parts import message_parts, receipt_parts
from bus.cli.output import WIDE, Column, number, styled
from bus.cli.texts import one_line, plain
from bus.cli.trace import trace_parts
from bus.errors import NotFound
from bus.model.delivery import State

if TYPE_CHECKING:
    from bus.model.contract import Contracts
    from bus.store.receipts import ReceiptLine
    from bus.store.search import Matches, MessageQuery
    from bus.store.views import MessageLine

RECEIPTS = ("invalid", "refused", "conflict", "duplicate")
UNROUTED = "unrouted"
STATES = (*(str(state).lower().replace("_", "-") for state in State), *RECEIPTS, UNROUTED)
BATCH = 500
"""Rows of a page where --all reads on and on."""


@click.group(cls=BusGroup)
def message() -> None:
    """Find messages, look at one, follow one to its last effect."""


message.add_command(gaps)


# --- list ------------------------------------------------------------------------------------------------------------


@message.command("list")
@click.option("--type", "type_name", default="", help="Of this type: order.release.v1.")
@click.option("--system", default="", help="Stated by this system.")
@click.option("--subject", default="", help="About this: order:4711.")
@click.option("--correlation", default="", help="Of this correlation id.")
@click.option("--document", default="", help="That a target booked under this number: 4900000123/2026.")
@click.option(
    "--state",
    type=click.Choice(STATES, case_sensitive=False),
    help="A delivery of it is in this state, or what became of it instead.",
)
@click.option("--since", type=Instant(), help="Accepted since: 2026-03-01T06:30, or an age: 90s, 15m, 2h, 3d.")
@click.option("--until", type=Instant(), help="Accepted until.")
@click.option(
    "--where", multiple=True, metavar="PATH=VALUE", help="What its document says: order.id=4711. May be repeated."
)
@paged
def list_(
    type_name: str,
    system: str,
    subject: str,
    correlation: str,
    document: str,
    state: str | None,
    since: datetime | None,
    until: datetime | None,
    where: tuple[str, ...],
    limit: int,
    everything: bool,
) -> None:
    """Messages, newest first. --state invalid, refused, conflict or duplicate lists what did not become one."""
    work = desk()
    if state in RECEIPTS:
        if subject or correlation or document or where:
            raise click.UsageError(f"--state {state} goes with --type, --system, --since and --until only")
        _list_receipts(work, str(state), type_name, system, since, until, limit, everything)
        return
    from bus.store.search import MessageQuery

    query = MessageQuery(
        type=type_name,
        system=system,
        subject=normal_subject(subject, work),
        correlation=correlation,
        document=document,
        state=State(state.upper().replace("-", "_")) if state not in (None, UNROUTED) else None,
        unrouted=state == UNROUTED,
        since=since,
        until=until,
    )
    query, matches = _with_documents(query, where, work)
    _list_messages(work, query, matches, limit, everything)


def _with_documents(query: MessageQuery, where: tuple[str, ...], work: Desk) -> tuple[MessageQuery, Matches | None]:
    """Conditions on documents: by the index where a contract declares the path searchable, else by reading bodies."""
    if not where:
        return query, None
    from dataclasses import replace

    pairs = []
    for condition in where:
        path, equals, value = condition.partition("=")
        if not equals or not path:
            raise click.BadParameter(
                f"{plain(condition)!r}: PATH=VALUE is expected, order.id=4711 say", param_hint="--where"
            )
        pairs.append((path.strip(), value.strip()))
    contracts = work.project.catalogue.contracts
    searchable = {path for contract in contracts.values() for path in contract.searchable}
    indexed = tuple(pair for pair in pairs if pair[0] in searchable)
    read = [pair for pair in pairs if pair[0] not in searchable]
    if read and query.since is None:
        paths = ", ".join(path for path, _ in read)
        raise click.UsageError(
            f"{paths} is not declared searchable, so bodies must be read: say since when with --since. "
            f"Searchable are: {', '.join(sorted(searchable)) or 'none'}"
        )
    return replace(query, where=indexed), _reader(contracts, read) if read else None


def _reader(contracts: Contracts, pairs: list[tuple[str, str]]) -> Matches:
    from bus.errors import MessageInvalid
    from bus.model.message import Message
    from bus.model.path import values_at

    def matches(kept: Message) -> bool:
        try:
            document = contracts.of(kept.type).read(kept.body)
        except MessageInvalid:  # its contract changed since: it has no such path any more
            return False
        return all(any(str(found) == value for found in values_at(document, path)) for path, value in pairs)

    return matches


def _list_messages(work: Desk, query: MessageQuery, matches: Matches | None, limit: int, everything: bool) -> None:
    from bus.store.search import list_messages

    columns = (
        Column("Number", lambda m: number(m.number), right=True),
        Column("Accepted", lambda m: m.accepted_at),
        Column("Type", lambda m: m.type),
        Column("System", lambda m: m.system, room=WIDE),
        Column("Site", lambda m: m.site, room=WIDE),
        Column("Subject", lambda m: m.subject),
        Column("Deliveries", _deliveries_of),
    )
    page = list_messages(work.database, query, limit=BATCH if everything else limit, matches=matches)
    lines = list(page.items)
    while everything and page.goes_on_at is not None:
        page = list_messages(work.database, query, limit=BATCH, before=page.goes_on_at, matches=matches)
        lines += page.items
    work.out.items(lines, *columns, empty="No message fits.")
    if not everything:
        more_note(page.more, exact=page.more_is_exact, looked_at=page.looked_at)


def _deliveries_of(line: MessageLine) -> Text:
    if not line.planned:
        return Text("unrouted", style="dim")
    text = Text()
    for state, count in line.deliveries.items():
        text.append(" " if text else "")
        text.append_text(styled(state))
        text.append(f" {count}" if count > 1 else "")
    return text


def _list_receipts(
    work: Desk,
    kind: str,
    type_name: str,
    system: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    everything: bool,
) -> None:
    from bus.ports import ReceiptKind
    from bus.store.receipts import list_receipts

    columns = (
        Column("Receipt", lambda r: Text(f"R{r.receipt}", no_wrap=True), right=True),
        Column("Received", lambda r: r.at),
        Column("Cause", lambda r: r.cause),
        Column("System", lambda r: r.system),
        Column("Type", lambda r: r.type, room=WIDE),
        Column("Why", lambda r: one_line(r.detail)[:200]),
    )
    lines: list[ReceiptLine] = []
    before = None
    while True:
        page = list_receipts(
            work.database,
            ReceiptKind(kind),
            limit=BATCH if everything else limit,
            type_name=type_name,
            system=system,
            since=since,
            until=until,
            before=before,
        )
        lines += page.items
        before = page.goes_on_at
        if not everything or before is None:
            break
    work.out.items(lines, *columns, empty=f"Nothing {kind} was received.")
    if not everything:
        more_note(page.more, exact=page.more_is_exact, looked_at=page.looked_at)
        if lines:
            work.out.say(f"What came: bus message show R{lines[0].receipt}")


# --- show ------------------------------------------------------------------------------------------------------------


@message.command()
@click.argument("name", metavar="ID")
def show(name: str) -> None:
    """One message: its body, deliveries and attempts. ID: its number, the sender's id of it, or R7 for a receipt."""
    work = desk()
    if name[:1] in ("R", "r") and name[1:].isdecimal() and len(name) < 19:
        from bus.store.receipts import receipt_detail

        found = receipt_detail(work.database, int(name[1:]))
        if found is None:
            raise NotFound(f"no receipt has the number {name}; see: bus message list --state invalid")
        work.out.one(found, lambda: receipt_parts(found, work.out))
        return
    from bus.store.follow import message_detail

    detail = message_detail(work.database, _number_of(name, work))
    work.out.one(detail, lambda: message_parts(detail, work.out))


def _number_of(name: str, work: Desk) -> int:
    """The number of a message that was named by its number or by its sender's id."""
    from bus.store.follow import message_numbers
    from bus.store.retired import unknown_message

    if name.isascii() and name.isdecimal() and len(name) < 19:
        return int(name)
    if not name.isprintable():
        raise NotFound("that is not the number or id of a message; see: bus message list")
    found = message_numbers(work.database, name)
    if not found:
        raise unknown_message(work.database, name)
    if len(found) > 1:
        work.out.say(f"{len(found)} messages bear this id: {', '.join(map(str, found))}; this is the newest.")
    return found[0]


# --- trace -----------------------------------------------------------------------------------------------------------


@message.command()
@click.argument("name", metavar="ID")
def trace(name: str) -> None:
    """The tree of causes a message belongs to, with times and outcomes, to the last document number."""
    from bus.store.follow import trace as trace_of

    work = desk()
    found = trace_of(work.database, _number_of(name, work))
    work.out.one(found, lambda: trace_parts(found))
