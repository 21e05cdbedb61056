"""`bus topology`: what the project needs at the broker; show it, make it, compare it with what is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import RenderableType
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, OK, BusGroup
from bus.cli.output import WIDE, Column

if TYPE_CHECKING:
    from bus.broker.differences import Comparison
    from bus.broker.management import Management
    from bus.model.topology import Topology


@click.group(cls=BusGroup)
def topology() -> None:
    """Exchanges, queues, users and rights at the broker."""


@topology.command()
def show() -> None:
    """What the project needs at the broker; needs none. -o json: as RabbitMQ's definitions, without passwords."""
    from bus.model.topology import VHOST, definitions
    from bus.project import topology_of

    work = desk()
    planned = topology_of(work.project)
    work.out.one(definitions(planned, vhost=VHOST), lambda: _parts(planned, work))


def _parts(planned: Topology, work: Desk) -> Iterator[RenderableType]:
    table = work.out.table
    yield table(
        planned.exchanges, Column("Exchange", lambda e: e.name), Column("Type", lambda e: e.type), title="Exchanges"
    )
    yield table(
        planned.queues,
        Column("Queue", lambda q: q.name),
        Column("Kind", lambda q: q.arguments.get("x-queue-type", "")),
        title="Queues",
    )
    yield table(
        planned.bindings,
        Column("From", lambda b: b.source),
        Column("Routing key", lambda b: b.routing_key),
        Column("To", lambda b: b.destination),
        title="Bindings",
    )
    yield table(
        planned.users,
        Column("User", lambda u: u.name),
        Column("May write", lambda u: u.write),
        Column("Routing keys", lambda u: "\n".join(f"{name}: {write}" for name, (write, _) in u.topics.items())),
        Column("May read", lambda u: u.read, room=WIDE),
        title="Users",
    )


@topology.command()
def apply() -> int:
    """Create what is missing at the broker, and set users and rights where the management API is configured."""
    from bus.bootstrap import broker_url
    from bus.broker.declare import declare
    from bus.project import topology_of
    from bus.secret_references import resolve_secret

    work = desk()
    project = work.project.require_sound()
    planned = topology_of(project)
    declare(planned, broker_url(project))
    management = management_of(work)
    if management is not None:
        with management:
            management.apply_users(
                planned, reveal=lambda reference: resolve_secret(reference, root=project.root).reveal()
            )
    value = {
        "exchanges": len(planned.exchanges),
        "queues": len(planned.queues),
        "bindings": len(planned.bindings),
        "users": len(planned.users) if management is not None else 0,
    }
    counts = ", ".join(f"{count} {noun}" for noun, count in value.items() if count)
    work.out.one(value, lambda: [Text(f"At the broker now: {counts}")])
    if management is None:
        work.out.say(_NO_MANAGEMENT)
    return OK


_NO_MANAGEMENT = (
    "Users and rights were left as they are: that needs the management API (management in bus.toml, or BUS_MANAGEMENT)."
)


@topology.command()
def diff() -> int:
    """How the broker differs from what the project needs. Exit code 1 where it does."""
    work = desk()
    found = compare(work)
    work.out.items(
        list(found.differences),
        Column("Kind", lambda d: d.kind),
        Column("Name", lambda d: d.name),
        Column("Found", lambda d: d.found),
        Column("Remedy", lambda d: d.remedy),
        empty="The broker has what the project needs.",
    )
    for unchecked in found.unchecked:
        work.out.say(f"Not checked: {unchecked}")
    return FOUND_BAD if found.differences else OK


def compare(work: Desk) -> Comparison:
    """By the management API where one is configured, else by asking passively over AMQP."""
    from bus.bootstrap import broker_url
    from bus.broker.declare import look
    from bus.project import topology_of

    planned = topology_of(work.project)
    url = broker_url(work.project)
    management = management_of(work)
    if management is None:
        return look(planned, url)
    with management:
        return management.diff(planned)


def management_of(work: Desk) -> Management | None:
    """The management API of the project's vhost; None where none is configured."""
    from bus.bootstrap import broker_url, management_url
    from bus.broker.address import read_addresses
    from bus.broker.management import Management

    url = management_url(work.project)
    return Management(url, vhost=read_addresses(broker_url(work.project))[0].vhost) if url else None
