"""`bus publish`: put one document on the bus as one of its systems, confirmed by the broker."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import rich_click as click
from rich.text import Text

from bus.cli.desk import desk
from bus.cli.frame import BusCommand
from bus.errors import ConfigurationError

if TYPE_CHECKING:
    from bus.model.system import System


@click.command(cls=BusCommand)
@click.argument("file", type=click.File("rb", lazy=True))
@click.option("--type", "type_name", required=True, help="Its message type.")
@click.option("--system", required=True, help="Which system of bus.toml says it.")
@click.option("--site", default="", help="At which site; else the system's only one.")
@click.option("--subject", default="", help="What it is about: order:4711; else the contract reads it from the body.")
@click.option("--id", "message_id", default="", help="Identity of the fact; publishing it twice under one id is safe.")
@click.option(
    "--sequence",
    type=click.IntRange(0),
    help="Which one it is, from 1, of all the system says at the site about the subject.",
)
@click.option("--content-type", default="", help="Else the contract's first.")
def publish(
    file: IO[bytes],
    type_name: str,
    system: str,
    site: str,
    subject: str,
    message_id: str,
    sequence: int | None,
    content_type: str,
) -> None:
    """Publish FILE (- for standard input); returns when the broker has it on disk."""
    from bus.bootstrap import broker_url
    from bus.client import connect
    from bus.secret_references import resolve_secret

    work = desk()
    project = work.project
    sender = project.settings.systems.get(system)
    if sender is None:
        known = ", ".join(project.settings.systems) or "none"
        raise click.BadParameter(f"{system!r} is not a system of bus.toml: {known}", param_hint="--system")
    where = _site(sender, site)
    contract = project.catalogue.contracts.of(type_name)
    limit = project.settings.max_bytes
    body = file.read(limit + 1)  # no more: it may be a device, or a pipe that never ends
    if len(body) > limit:
        raise click.BadParameter(f"it is longer than the {limit:,} bytes the bus takes (max_bytes)", param_hint="FILE")
    url = broker_url(project)
    if sender.password:
        url = login_as(url, sender.user, resolve_secret(sender.password, root=project.root).reveal())
    with connect(url, system=sender.name, site=where) as line:
        line.publish(
            type_name,
            body,
            subject=subject,
            message_id=message_id,
            sequence=sequence,
            content_type=content_type or contract.content_types[0],
        )
    said = {"published": True, "type": type_name, "system": system, "site": where, "id": message_id, "bytes": len(body)}
    work.out.one(said, lambda: [Text(f"The broker has it: {type_name} from {system} at {where}, {len(body):,} bytes")])
    work.out.say(f"Next: bus message list --type {type_name} -n 5")


def _site(sender: System, site: str) -> str:
    if site:
        return site
    if len(sender.sites) == 1:
        return sender.sites[0]
    raise click.UsageError(f"{sender.name} works at {', '.join(sender.sites) or 'no site'}; say which with --site")


def login_as(url: str, user: str, password: str) -> str:
    """The broker's URL (every node of it) with another login."""
    return ";".join(_login_one(part, user, password) for part in url.split(";"))


def _login_one(url: str, user: str, password: str) -> str:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        from bus.broker.address import mask_url

        raise ConfigurationError(
            f"broker URL {mask_url(url)}: amqp://user:password@host:5672/vhost is expected"
        ) from None
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{host}"))
