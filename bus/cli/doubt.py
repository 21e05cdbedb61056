"""`bus doubt`: deliveries of which nobody knows whether they happened; look, ask the target, decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rich_click as click

from bus.cli.dead import report, show_delivery
from bus.cli.desk import desk
from bus.cli.frame import DELIVERY, BusGroup, more_note, paged, reason
from bus.cli.output import WIDE, Column, number
from bus.cli.texts import when
from bus.model.delivery import State

if TYPE_CHECKING:
    from bus.store.failures import FailedLine


@click.group(cls=BusGroup)
def doubt() -> None:
    """Deliveries that may or may not have happened: the target is asked, or a person decides."""


@doubt.command("list")
@click.option("--endpoint", default="", help="To this endpoint.")
@paged
def list_(endpoint: str, limit: int, everything: bool) -> None:
    """Deliveries in doubt, newest first."""
    from bus.store.failures import FailureQuery, list_failures

    work = desk()
    query = FailureQuery(endpoint=endpoint)
    page = list_failures(work.database, State.IN_DOUBT, query, limit=limit)
    lines = list(page.items)
    while everything and page.goes_on_at is not None:
        page = list_failures(work.database, State.IN_DOUBT, query, limit=limit, before=page.goes_on_at)
        lines += page.items
    work.out.items(
        lines,
        Column("Delivery", lambda f: number(f.delivery.number), right=True),
        Column("Since", lambda f: f.delivery.changed_at),
        Column("Cause", lambda f: f.delivery.cause),
        Column("To", lambda f: f.delivery.destination),
        Column("Subject", lambda f: f.subject),
        Column("Type", lambda f: f.type, room=WIDE),
        Column("Asked again", _asked_again),
        empty="Nothing is in doubt.",
    )
    if not everything:
        more_note(page.more, exact=page.more_is_exact)
    if lines:
        work.out.say(f"Next: bus doubt show {lines[-1].delivery.number}")


def _asked_again(line: FailedLine) -> str:
    due = line.delivery.due_at
    return "by a person only" if due is None else when(due, brief=True)


@doubt.command()
@click.argument("delivery", type=DELIVERY, metavar="ID")
def show(delivery: int) -> None:
    """Why it is in doubt, what was sent, what probes said, what waits behind it, what to type next."""
    show_delivery(delivery, State.IN_DOUBT)


@doubt.command()
@click.argument("delivery", type=DELIVERY, metavar="ID")
@click.option("--document", required=True, help="The target's own number of what it booked; - where it gives none.")
@reason
def happened(delivery: int, document: str, reason: str) -> int:
    """It did happen: the delivery is done, under the target's document number."""
    from bus.control.actor import person
    from bus.control.orders import say_it_happened

    work = desk()
    number_there = "" if document.strip() == "-" else document.strip()
    if not number_there.isprintable() or len(number_there) > 200 or (not number_there and document.strip() != "-"):
        raise click.BadParameter(
            "the target's number of what it booked, or - where it gives none", param_hint="--document"
        )
    done = say_it_happened(delivery, document=number_there, store=work.store, actor=person(reason))
    work.wake(done.queues)
    return report(work, done, f"delivered{f', document {number_there}' if number_there else ''}")


@doubt.command()
@click.argument("delivery", type=DELIVERY, metavar="ID")
@reason
def absent(delivery: int, reason: str) -> int:
    """It did not happen: the delivery is sent again, in its place."""
    from bus.control.actor import person
    from bus.control.orders import say_it_is_absent

    work = desk()
    done = say_it_is_absent(delivery, store=work.store, actor=person(reason))
    work.wake(done.queues)
    return report(work, done, "sent again")
