"""The broker of a plant day: the private node, or a place of its own on a broker that was named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import httpx

from bus import bootstrap
from bus.broker.declare import declare
from bus.broker.management import Management
from bus.errors import BrokerUnavailable, ConfigurationError, NotAvailable
from bus.model.topology import ENGINE, Topology
from bus.model.topology import VHOST as PRIVATE_VHOST
from bus.project import Project, topology_of
from bus.secret_references import resolve_secret

VHOST = "plantbus-demo"
"""Made on a broker whose URL names none."""


@dataclass(frozen=True)
class Broker:
    """Where the day's users log in. `management` is the API with an administrator's login, empty on a private node."""

    address: SplitResult
    vhost: str
    passwords: Mapping[str, str]
    management: str = ""

    def url(self, user: str = ENGINE) -> str:
        host = self.address.netloc.rpartition("@")[2]
        login = f"{quote(user, safe='')}:{quote(self.passwords[user], safe='')}"
        return urlunsplit(self.address._replace(netloc=f"{login}@{host}", path="/" + quote(self.vhost, safe="")))


@contextmanager
def private_broker(project: Project) -> Iterator[Broker]:
    """A RabbitMQ node of the project's own.

    Raises:
        NotAvailable: it cannot be had; says what to type.
    """
    with bootstrap.private_node(project) as node:
        yield Broker(urlsplit(f"amqp://127.0.0.1:{node.amqp_port}"), PRIVATE_VHOST, _passwords(project))


@contextmanager
def given_broker(project: Project, *, url: str, management: str) -> Iterator[Broker]:
    """A vhost and users of the day's own on this broker; afterwards deletes exactly what it made.

    Raises:
        NotAvailable: the API is missing or refuses, the vhost is not empty, or a user of that name is there already.
    """
    address = _checked(url)
    if not management:
        raise NotAvailable(
            "BROKER is set and MANAGEMENT is not: add the address of its management API, "
            "`make demo BROKER=amqp://… MANAGEMENT=http://host:15672`"
        )
    bootstrap.ensure_secrets(project)
    topology = topology_of(project)
    named = unquote(address.path[1:])
    broker = Broker(address, named or VHOST, _passwords(project), _with_login(management, address))
    with ExitStack() as stack:
        api = stack.enter_context(_Api(broker.management))
        api.require_no_users(topology)
        if api.has_vhost(broker.vhost):
            api.require_empty(broker.vhost)
            stack.callback(api.clear, topology, broker.vhost)
        else:
            stack.callback(api.delete, f"vhosts/{quote(broker.vhost, safe='')}")
            api.put(f"vhosts/{quote(broker.vhost, safe='')}")
        for user in topology.users:
            stack.callback(api.delete, f"users/{quote(user.name, safe='')}")
        with Management(broker.management, vhost=broker.vhost) as users:
            users.apply_users(topology, reveal=lambda reference: resolve_secret(reference, root=project.root).reveal())
        declare(topology, broker.url())
        yield broker


def _passwords(project: Project) -> dict[str, str]:
    users = topology_of(project).users
    return {user.name: resolve_secret(user.password, root=project.root).reveal() for user in users}


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname or ";" in url:
        raise ConfigurationError("BROKER: one amqp://user:password@host:5672/vhost (or amqps://…) is expected")
    return parts


def _with_login(management: str, address: SplitResult) -> str:
    """The API's URL with its own login, or with that of the broker's URL."""
    parts = urlsplit(management)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("MANAGEMENT: http://host:15672 (or https://…) is expected")
    if parts.username or not address.username:
        return management
    login, _, _ = address.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc}"))


class _Api:
    """What bus.broker.management does not do: vhosts, and taking away."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url.rstrip('/')}/api/", timeout=30, trust_env=False)

    def __enter__(self) -> _Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def require_no_users(self, topology: Topology) -> None:
        taken = {user["name"] for user in self._get("users")} & {user.name for user in topology.users}
        if taken:
            raise NotAvailable(
                f"the broker has users named {', '.join(sorted(taken))} already, and the demo makes its own: "
                "delete them if an earlier demo left them, or use another broker"
            )

    def has_vhost(self, vhost: str) -> bool:
        return any(each["name"] == vhost for each in self._get("vhosts"))

    def require_empty(self, vhost: str) -> None:
        at = quote(vhost, safe="")
        queues = [queue["name"] for queue in self._get(f"queues/{at}")]
        exchanges = [e["name"] for e in self._get(f"exchanges/{at}") if e["name"] and not e["name"].startswith("amq.")]
        if queues or exchanges:
            raise NotAvailable(
                f"vhost {vhost!r} is not empty ({len(queues)} queues, {len(exchanges)} exchanges): "
                "name an empty one in BROKER, or none, and the demo makes its own"
            )

    def clear(self, topology: Topology, vhost: str) -> None:
        """Take what was declared out of a vhost that stays."""
        at = quote(vhost, safe="")
        for queue in topology.queues:
            self.delete(f"queues/{at}/{quote(queue.name, safe='')}")
        for exchange in topology.exchanges:
            self.delete(f"exchanges/{at}/{quote(exchange.name, safe='')}")

    def put(self, path: str) -> None:
        self._ask("PUT", path)

    def delete(self, path: str) -> None:
        """What is not there (any more) is no trouble."""
        self._ask("DELETE", path)

    def _get(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", path).json()
        return found

    def _ask(self, method: str, path: str) -> httpx.Response:
        try:
            answer = self._client.request(method, path, json={} if method == "PUT" else None)
        except httpx.HTTPError as error:
            raise BrokerUnavailable(
                f"the management API cannot be reached ({error or type(error).__name__}): "
                "enable it with `rabbitmq-plugins enable rabbitmq_management`, or correct MANAGEMENT"
            ) from error
        if answer.status_code in (401, 403):
            raise BrokerUnavailable("the management API refuses this login: it needs the tag administrator")
        if answer.is_error and not (method == "DELETE" and answer.status_code == httpx.codes.NOT_FOUND):
            raise BrokerUnavailable(f"the management API answered {answer.status_code} to {method} {path}")
        return answer
