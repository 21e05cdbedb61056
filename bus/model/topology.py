"""The broker's topology as data: exchanges, queues, bindings, users and rights, computed from the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bus.errors import ConfigurationError
from bus.model.contract import TYPE_NAME, Contracts
from bus.model.envelope import EXCHANGE as IN
from bus.model.message_class import MessageClass
from bus.model.system import NAME, Endpoint, System

OUT = "bus.out"
UNROUTED = "bus.unrouted"
DEAD = "bus.dead"
ENGINE = "bus"
"""The engine's own user."""
VHOST = "plantbus"
"""Name of the vhost on a private node; on another broker the URL names it."""

NEVER = 1_000_000_000
"""A delivery limit that never fires. Without one RabbitMQ 4 takes 20; -1 is no limit for 4, but one try for 3.10."""

# Not `$`: in PCRE, which RabbitMQ takes, it matches before a line feed at the end too.
_END = r"\z"
_NOTHING = f"^{_END}"
_EVERYTHING = ".*"
_KEPT = {"x-queue-type": "quorum", "x-delivery-limit": NEVER}
_IN_ORDER = {"x-single-active-consumer": True}
_DEAD_LETTERS = {"x-dead-letter-exchange": DEAD}
# At-least-once dead-lettering needs this overflow (RabbitMQ 3.10 and later); without a length limit it never acts.
_SAFELY = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable quorum queue."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """`kind` says what the destination is: `queue` or `exchange`."""

    source: str
    destination: str
    kind: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class User:
    """A user of the broker with its rights in the bus's vhost, each an anchored regular expression."""

    name: str
    configure: str
    write: str
    read: str
    topics: Mapping[str, tuple[str, str]]
    """Topic exchange → (write, read), matched against the routing key."""
    password: str = field(default="", repr=False)
    """Secret reference, never the secret; empty: whoever made the user set it."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the bus needs at the broker, in the order in which it can be declared."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    users: tuple[User, ...]
    """The engine's own first, then those of the systems."""

    def queue(self, name: str) -> Queue:
        """A queue by name; KeyError where the topology has none."""
        for queue in self.queues:
            if queue.name == name:
                return queue
        raise KeyError(name)


def queues_of(message_class: MessageClass, partitions: int = 1) -> tuple[str, ...]:
    """The queues a class's routers read, one router at a time each."""
    return tuple(f"{IN}.{message_class}.{number}" for number in range(partitions))


def plan_topology(
    *,
    systems: Iterable[System],
    endpoints: Iterable[Endpoint],
    contracts: Contracts,
    partitions: Mapping[MessageClass, int] = MappingProxyType({}),
    engine: str = ENGINE,
    engine_password: str = "",
) -> Topology:
    """The topology of a project; `partitions` per class (1 where none is given) are fixed when the queues are created.

    A type without a contract matches no binding: the alternate exchange brings it to `bus.unrouted`, which the bus
    reads like its other queues and records, naming the known types.

    Raises:
        ConfigurationError: a name that cannot stand in a routing key, or a user that two systems would share.
    """
    exchanges = [Exchange(UNROUTED, "fanout"), Exchange(DEAD, "fanout"), Exchange(OUT, "topic")]
    exchanges.append(Exchange(IN, "topic", {"alternate-exchange": UNROUTED}))
    queues = [Queue(UNROUTED, _KEPT | _IN_ORDER | _DEAD_LETTERS | _SAFELY), Queue(DEAD, _KEPT | _IN_ORDER)]
    bindings = [Binding(UNROUTED, UNROUTED, "queue", ""), Binding(DEAD, DEAD, "queue", "")]
    for message_class in MessageClass:
        count = partitions.get(message_class, 1)
        names = queues_of(message_class, count)
        queues += [Queue(name, _KEPT | _IN_ORDER | _DEAD_LETTERS | _SAFELY) for name in names]
        target, kind = names[0], "queue"
        if count > 1:
            target, kind = f"{IN}.{message_class}", "exchange"
            exchanges.append(Exchange(target, "x-consistent-hash", {"hash-header": "subject"}))
            bindings += [Binding(target, name, "queue", "1") for name in names]
        types = sorted(name for name, contract in contracts.items() if contract.message_class is message_class)
        bindings += [Binding(IN, target, kind, f"*.*.{name}") for name in types]
        queues.append(Queue(f"transform.{message_class}", _KEPT | _DEAD_LETTERS))
    queues += [Queue(name, _KEPT | _DEAD_LETTERS) for name in sorted(endpoint.queue for endpoint in endpoints)]
    return Topology(
        exchanges=tuple(exchanges),
        queues=tuple(queues),
        bindings=tuple(bindings),
        users=(_engine(engine, engine_password), *_users(systems, engine)),
    )


# --- users and rights ------------------------------------------------------------------------------------------------


def _engine(name: str, password: str) -> User:
    topics = dict.fromkeys((IN, OUT), (_EVERYTHING, _EVERYTHING))
    return User(name, _EVERYTHING, _EVERYTHING, _EVERYTHING, topics, password)


def _users(systems: Iterable[System], engine: str) -> Iterable[User]:
    by_name = {system.name: system for system in systems}
    taken: dict[str, str] = {engine: "the bus itself", "guest": "nobody: RabbitMQ's default user is not used"}
    for system in sorted(by_name.values(), key=lambda system: system.user):
        if not system.user:
            continue
        if system.user in taken:
            raise ConfigurationError(
                f"system {system.name}: broker user {system.user!r} belongs to {taken[system.user]}; "
                "give every system a user of its own, or let a bridge list it in speaks_for"
            )
        taken[system.user] = f"system {system.name}"
        keys = _keys(system, by_name)
        write = f"^{_literal(IN)}{_END}" if keys else _NOTHING
        yield User(system.user, _NOTHING, write, _NOTHING, {IN: (keys or _NOTHING, _NOTHING)}, system.password)


def _keys(system: System, systems: Mapping[str, System]) -> str:
    """The routing keys a system's user may write, as one anchored expression; empty: none."""
    speaks_for = []
    for name in (system.name, *system.speaks_for):
        if name not in systems:
            raise ConfigurationError(f"system {system.name} speaks for {name!r}, which bus.toml does not have")
        spoken = systems[name]
        if spoken.sites and spoken.publishes:
            speaks_for.append(rf"{_any(spoken.sites, NAME)}\.{_any([name], NAME)}\.{_any(spoken.publishes, TYPE_NAME)}")
    if not speaks_for:
        return ""
    return f"^{speaks_for[0]}{_END}" if len(speaks_for) == 1 else f"^({'|'.join(speaks_for)}){_END}"


def _any(names: Iterable[str], form: Any) -> str:
    words = sorted(set(names))
    for word in words:
        if not form.fullmatch(word):
            raise ConfigurationError(f"{word!r} cannot stand in a routing key: {form.pattern} is expected")
    return _literal(words[0]) if len(words) == 1 else f"({'|'.join(map(_literal, words))})"


def _literal(word: str) -> str:
    """Escaped for Erlang's re; names hold nothing else that means something there."""
    return word.replace(".", r"\.")


# --- RabbitMQ's own form ---------------------------------------------------------------------------------------------


def definitions(topology: Topology, *, vhost: str, password_hash: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The topology as RabbitMQ's definitions: for a node to load at boot, or for `rabbitmqctl import_definitions`.

    Users without a hash exist but cannot log in with a password until one is set.
    """
    hashes = password_hash or {}
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {
                "name": user.name,
                "password_hash": hashes.get(user.name, ""),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
            for user in topology.users
        ],
        "permissions": [
            {"user": u.name, "vhost": vhost, "configure": u.configure, "write": u.write, "read": u.read}
            for u in topology.users
        ],
        "topic_permissions": [
            {"user": user.name, "vhost": vhost, "exchange": exchange, "write": write, "read": read}
            for user in topology.users
            for exchange, (write, read) in user.topics.items()
        ],
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.type,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(exchange.arguments),
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {"name": q.name, "vhost": vhost, "durable": True, "auto_delete": False, "arguments": dict(q.arguments)}
            for q in topology.queues
        ],
        "bindings": [
            {
                "source": binding.source,
                "vhost": vhost,
                "destination": binding.destination,
                "destination_type": binding.kind,
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }
