"""A message, drawn: its body, its deliveries and attempts; or the receipt of what did not become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.panel import Panel
from rich.text import Text

from bus.cli.bodies import readable
from bus.cli.output import WIDE, Column, Output, number, styled
from bus.cli.texts import duration, one_line, outcome, plain

if TYPE_CHECKING:
    from bus.store.follow import MessageDetail
    from bus.store.receipts import ReceiptDetail


def message_parts(detail: MessageDetail, out: Output) -> Iterator[RenderableType]:
    """Where it comes from, its body, and what became of it."""
    line = detail.line
    made_by = f"delivery {line.parent} of message {detail.parent_message}" if line.parent is not None else ""
    yield Text(f"Message {line.number}", style="bold")
    yield out.fields(
        (
            ("type", line.type),
            ("subject", line.subject),
            ("from", f"{line.system} at {line.site}" if line.system else line.site),
            ("id", line.id),
            ("accepted", line.accepted_at),
            ("happened", line.time),
            ("sequence", "" if line.sequence is None else number(line.sequence)),
            ("correlation", line.correlation_id),
            ("caused by", line.causation_id),
            ("made by", made_by),
            ("business date", line.business_date),
        )
    )
    body = detail.message.body
    yield Panel(
        Text(readable(body, line.content_type)),
        title=Text(f"{line.content_type}, {len(body):,} bytes"),
        title_align="left",
        border_style="dim",
    )
    yield from _deliveries(detail, out)
    if detail.children:
        yield out.table(
            detail.children,
            Column("Number", lambda m: number(m.number), right=True),
            Column("Type", lambda m: m.type),
            Column("Subject", lambda m: m.subject),
            Column("By delivery", lambda m: number(m.parent or 0), right=True),
            title="Messages made of it",
        )
    yield Text(f"Next: bus message trace {line.number}", style="dim")


def _deliveries(detail: MessageDetail, out: Output) -> Iterable[RenderableType]:
    if not detail.deliveries:
        yield Text("No route takes it. Why: bus route explain FILE --type " + detail.line.type, style="yellow")
        return
    yield out.table(
        detail.deliveries,
        Column("Delivery", lambda d: number(d.number), right=True),
        Column("Route", lambda d: d.route),
        Column("To", lambda d: d.destination),
        Column("State", lambda d: styled(d.state)),
        Column("Since", lambda d: d.changed_at, room=WIDE),
        Column("Document", lambda d: d.document),
        Column("Cause", lambda d: d.cause),
        title="Deliveries",
    )
    if detail.attempts:
        yield out.table(
            detail.attempts,
            Column("Delivery", lambda a: number(a.delivery), right=True),
            Column("Began", lambda a: a.began_at),
            Column("Took", lambda a: duration(a.ended_at - a.began_at), right=True),
            Column("Stage", lambda a: a.stage, room=WIDE),
            Column("Outcome", lambda a: f"{outcome(a.outcome)}{' (late)' if a.late else ''}"),
            Column("Why", lambda a: one_line(f"{a.cause} {a.detail}")[:200]),
            Column("Document", lambda a: a.document, room=WIDE),
            title="Attempts",
        )
    deeds = [row for row in detail.journal if row.actor.startswith("person:")]
    if deeds:
        yield out.table(
            deeds,
            Column("When", lambda j: j.at),
            Column("Who", lambda j: j.actor),
            Column("Did", lambda j: f"{j.act} {j.delivery}"),
            Column("Why", lambda j: j.reason),
            title="What people did",
        )


def receipt_parts(detail: ReceiptDetail, out: Output) -> Iterator[RenderableType]:
    """Why it did not become a message, what to do, and what came."""
    from bus.model.causes import remedy

    line = detail.line
    yield Text(f"Receipt R{line.receipt}: {line.kind}, {line.cause}", style="bold")
    yield out.fields(
        (
            ("received", line.at),
            ("routing key", line.routing_key),
            ("system", line.system),
            ("type", line.type),
            ("id", line.id),
            ("why", line.detail),
            ("remedy", remedy(line.cause)),
        )
    )
    content_type = str(detail.properties.get("content_type", ""))
    yield Panel(
        Text(readable(detail.body, content_type)),
        title=Text(plain(f"{content_type or 'no content type'}, {len(detail.body):,} bytes as they came")),
        title_align="left",
        border_style="dim",
    )
