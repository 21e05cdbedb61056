"""`bus doctor`: is everything there that the bus needs; each finding with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.text import Text

from bus.cli.desk import Desk, desk
from bus.cli.frame import FOUND_BAD, OK, BusCommand
from bus.cli.output import Column
from bus.cli.store import NOT_FOR_REGULATED_USE
from bus.cli.texts import counted, duration, plain
from bus.errors import BusError, SecretUnavailable
from bus.model.shown_url import shown_url

if TYPE_CHECKING:
    from bus.broker.address import BrokerAddress

SKEW = timedelta(seconds=2)
"""Difference between this machine's clock and the store's that is worth a word."""

_STYLE = {"ok": "green", "note": "yellow", "bad": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`result`: ok, note or bad; the text says what to do about it."""

    check: str
    result: str
    text: str


@click.command(cls=BusCommand)
def doctor() -> int:
    """Check project, store, migrations, clock, broker, rights and who is at work. Exit code 1: something is bad."""
    work = desk()
    findings = list(_findings(work))
    work.out.items(
        findings,
        Column("Check", lambda f: f.check),
        Column("Result", lambda f: Text(f.result, style=_STYLE[f.result])),
        Column("Finding", lambda f: f.text),
        empty="",
    )
    return FOUND_BAD if any(finding.result == "bad" for finding in findings) else OK


Check = Callable[[Desk], Iterator[Finding]]


def _findings(work: Desk) -> Iterator[Finding]:
    """Every check in turn; one that needs what is not there is not asked."""
    missing: set[str] = set()
    for name, check, needs in _CHECKS:
        if needs in missing:
            yield Finding(name, "note", f"not checked: it needs the {needs}")
            missing.add(name)
            continue
        try:
            yield from check(work)
        except BusError as error:
            missing.add(name)
            yield Finding(name, "bad", str(error))
        except Exception as error:  # noqa: BLE001  # a finding records it, and the other checks are still asked
            missing.add(name)
            yield Finding(name, "bad", f"the check itself failed: {type(error).__name__}: {error}")


def _project(work: Desk) -> Iterator[Finding]:
    project = work.project
    yield Finding("project", "ok", f"{project.root}")
    for complaint in project.complaints:
        yield Finding("project", "bad", complaint)


def _endpoints(work: Desk) -> Iterator[Finding]:
    from bus.bootstrap import adapter_of
    from bus.secret_references import missing_secrets

    for endpoint in work.project.settings.endpoints.values():
        missing = missing_secrets(endpoint, root=work.project.root)
        yield from (Finding(f"endpoint {endpoint.name}", "bad", text) for text in missing)
        try:
            adapter_of(work.project, endpoint).close()
        except SecretUnavailable as error:
            if not missing:
                yield Finding(f"endpoint {endpoint.name}", "bad", str(error))
        except BusError as error:
            yield Finding(f"endpoint {endpoint.name}", "bad", str(error))


def _store(work: Desk) -> Iterator[Finding]:
    from bus.store.postgresql_tls import is_unencrypted

    database = work.database
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    yield Finding("store", "ok", f"{kind} at {shown_url(database.url.render_as_string(hide_password=False))}")
    if database.is_sqlite:
        yield Finding("store", "note", NOT_FOR_REGULATED_USE)
    elif is_unencrypted(database.url):
        yield Finding("store", "note", "everything goes to the store as it is: sslmode=verify-full in its address")


def _migrations(work: Desk) -> Iterator[Finding]:
    from bus.store.schema import revisions

    current, needed = revisions(work.database)
    yield Finding("migrations", "ok" if current == needed else "bad", f"at revision {current}, {needed} is needed")


def _clock(work: Desk) -> Iterator[Finding]:
    database = work.database
    with database.read() as connection:
        before = datetime.now(UTC)
        theirs = database.now(connection)
        after = datetime.now(UTC)
    apart = theirs - before if theirs < before else max(theirs - after, timedelta(0))
    if abs(apart) > SKEW:
        where = "behind" if apart < timedelta(0) else "ahead"
        yield Finding("clock", "note", f"the store's clock is {duration(abs(apart))} {where}: set both by NTP")
    else:
        yield Finding("clock", "ok", "the store's clock agrees with this machine's")


def _broker(work: Desk) -> Iterator[Finding]:
    from bus.bootstrap import broker_url
    from bus.broker.address import read_addresses
    from bus.broker.link import connect

    addresses = read_addresses(broker_url(work.project))
    connection = connect(addresses, name="plantbus doctor")
    try:
        properties = connection.server_properties
        yield Finding("broker", "ok", f"{properties.get('product')} {properties.get('version')} at {addresses[0]}")
        yield _tls_of_broker(connection, addresses)
    finally:
        connection.collect()


def _tls_of_broker(connection: Any, addresses: Sequence[BrokerAddress]) -> Finding:
    if any(address.is_unencrypted for address in addresses):
        return Finding("tls", "note", "passwords and messages go to the broker as they are; amqps:// speaks TLS")
    version = getattr(connection.transport.sock, "version", str)()
    if not version:
        return Finding("tls", "ok", "the broker is on this machine: no TLS is needed")
    return Finding("tls", "ok", f"{version} with the broker, its certificate and name are checked")


def _rights(work: Desk) -> Iterator[Finding]:
    from bus.cli.topology import compare

    found = compare(work)
    for difference in found.differences:
        yield Finding(
            "rights" if "permission" in difference.kind or difference.kind == "user" else "topology",
            "bad",
            str(difference),
        )
    if not found.differences:
        yield Finding("topology", "ok", "exchanges and queues are there")
    if len(found.unchecked) > 1:
        yield Finding("rights", "note", f"not checked without the management API: {', '.join(found.unchecked)}")


def _deliveries(work: Desk) -> Iterator[Finding]:
    """Whether every delivery that waits has somebody who will claim it."""
    from bus.store.unserved import unserved

    for queue in unserved(work.database, served=work.project.catalogue.queues):
        endpoint = queue.queue.removeprefix("send.")
        yield Finding(
            "deliveries",
            "bad",
            f"{counted(queue.deliveries, 'delivery')} in {plain(queue.queue)}, which nobody "
            f"serves: put [endpoints.{plain(endpoint)}] back into bus.toml, or give them up: "
            f"bus lane list --endpoint {plain(endpoint)}, bus dead discard {queue.oldest} … --reason …",
        )


def _at_work(work: Desk) -> Iterator[Finding]:
    from bus.pipeline.resume import RELAY
    from bus.store.overview import overview

    leases = [lease for lease in overview(work.database).leases if lease.age < work.project.settings.lease]
    for name, alive in (
        ("relay", any(lease.name == RELAY for lease in leases)),
        ("workers", any(lease.name != RELAY for lease in leases)),
    ):
        text = "alive" if alive else "nobody is at work; start it with: bus run"
        yield Finding(name, "ok" if alive else "note", text)


_CHECKS: tuple[tuple[str, Check, str], ...] = (
    ("project", _project, ""),
    ("endpoints", _endpoints, "project"),
    ("store", _store, "project"),
    ("migrations", _migrations, "store"),
    ("clock", _clock, "store"),
    ("deliveries", _deliveries, "store"),
    ("broker", _broker, "project"),
    ("rights", _rights, "broker"),
    ("at work", _at_work, "store"),
)
