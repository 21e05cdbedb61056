"""Declares the topology at the broker; safe to repeat, and clear about what differs where something is in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from amqp.exceptions import AccessRefused, ChannelError, NotFound, PreconditionFailed

from bus.broker.address import read_addresses
from bus.broker.differences import Comparison, Difference
from bus.broker.link import LOST, connect
from bus.errors import BrokerUnavailable, ConfigurationError
from bus.model.topology import Binding, Exchange, Queue, Topology

_Step = tuple[str, Callable[[Any], object]]


def declare(topology: Topology, url: str) -> None:
    """Create what is missing: exchanges, queues, bindings. Users and rights need the management API.

    Raises:
        ConfigurationError: something of that name is there and differs, or the user or a plugin is missing.
        BrokerUnavailable: the broker cannot be reached or went away; what was declared stays.
    """
    connection = connect(read_addresses(url), name="plantbus topology")
    try:
        channel = connection.channel()
        for name, step in _steps(topology):
            _declare(name, step, channel)
        channel.close()
        connection.close()
    except LOST as error:
        raise BrokerUnavailable(f"the broker went away while the topology was declared: {error}; repeat it") from error
    finally:
        connection.collect()


def look(topology: Topology, url: str) -> Comparison:
    """Which exchanges and queues are missing, asked without the management API; says what this cannot see.

    Raises:
        BrokerUnavailable: the broker cannot be reached or went away.
    """
    connection = connect(read_addresses(url), name="plantbus topology")
    differences = []
    try:
        for name, step in _questions(topology):
            channel = connection.channel()
            try:
                step(channel)
            except NotFound:
                kind, _, thing = name.partition(" ")
                differences.append(Difference(kind, thing, "is missing", "run `bus topology apply`"))
            channel.close()
        connection.close()
    except LOST as error:
        raise BrokerUnavailable(f"the broker went away while it was asked: {error}; repeat the command") from error
    finally:
        connection.collect()
    return Comparison(
        tuple(differences),
        unchecked=(
            "types and arguments of exchanges and queues",
            "bindings",
            "users, permissions and topic permissions",
            "anything that should not be there",
        ),
    )


def _steps(topology: Topology) -> Iterator[_Step]:
    for exchange in topology.exchanges:
        yield f"exchange {exchange.name}", partial(_exchange, exchange)
    for queue in topology.queues:
        yield f"queue {queue.name}", partial(_queue, queue)
    for binding in topology.bindings:
        yield f"binding {binding.source} → {binding.destination} ({binding.routing_key})", partial(_bind, binding)


def _questions(topology: Topology) -> Iterator[_Step]:
    for exchange in topology.exchanges:
        yield f"exchange {exchange.name}", partial(_exchange, exchange, passive=True)
    for queue in topology.queues:
        yield f"queue {queue.name}", partial(_queue, queue, passive=True)


def _exchange(exchange: Exchange, channel: Any, *, passive: bool = False) -> None:
    channel.exchange_declare(
        exchange.name,
        exchange.type,
        passive=passive,
        durable=True,
        auto_delete=False,
        arguments=dict(exchange.arguments),
    )


def _queue(queue: Queue, channel: Any, *, passive: bool = False) -> None:
    channel.queue_declare(queue.name, passive=passive, durable=True, auto_delete=False, arguments=dict(queue.arguments))


def _bind(binding: Binding, channel: Any) -> None:
    bind = channel.exchange_bind if binding.kind == "exchange" else channel.queue_bind
    bind(binding.destination, binding.source, binding.routing_key)


def _declare(name: str, step: Callable[[Any], object], channel: Any) -> None:
    try:
        step(channel)
    except PreconditionFailed as error:
        raise ConfigurationError(
            f"{name} is there and differs: {error.reply_text}. Its arguments are fixed when it is created: "
            "let the bus empty it, delete it, and run `bus topology apply` again; or use a vhost of its own"
        ) from error
    except AccessRefused as error:
        raise ConfigurationError(
            f"{name} may not be declared by this user: {error.reply_text}. Use the bus's own user, "
            "or give this one configure, write and read rights in the vhost"
        ) from error
    except ChannelError as error:
        raise ConfigurationError(f"{name} cannot be declared: {error.reply_text}") from error
    except LOST as error:
        if "x-consistent-hash" in str(error):
            raise ConfigurationError(
                f"{name} needs a plugin: run `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` at the "
                "broker, or use one partition"
            ) from error
        raise
