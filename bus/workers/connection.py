"""How the workers' side connects to RabbitMQ, and which of pika's errors mean that a connection is lost."""

from __future__ import annotations

import copy
import ssl
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import pika
from dramatiq.errors import BrokerConnectionError, ConnectionClosed
from pika.credentials import ExternalCredentials, PlainCredentials
from pika.exceptions import AMQPError

HEARTBEAT = timedelta(seconds=30)
BLOCKED_LIMIT = timedelta(seconds=5)
CONNECT_LIMIT = timedelta(seconds=5)

# AssertionError: pika 1.4.4 states closed channels with assert in several places (_AsyncBaseTransport, Channel), as
# dramatiq 2.2.1 (_RabbitmqConsumer.__next__) found out too. OSError: name resolution is not wrapped.
LOST = (AMQPError, OSError, AssertionError)


class Node(Protocol):
    """One node of the broker and who logs in there, as bus.broker.address reads it from a URL."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def vhost(self) -> str: ...
    @property
    def server_name(self) -> str: ...
    @property
    def is_external(self) -> bool: ...
    def context(self) -> ssl.SSLContext | None: ...


def parameters_of(node: Node) -> pika.connection.Parameters:
    """pika's own form of a node. Not from its URL: pika reads other options there than RabbitMQ's specification has.

    Raises:
        ConfigurationError: a file of the node's TLS is wrong.
    """
    context = node.context()
    return pika.ConnectionParameters(
        host=node.host,
        port=node.port,
        virtual_host=node.vhost,
        credentials=ExternalCredentials() if node.is_external else PlainCredentials(node.user, node.password),
        ssl_options=pika.SSLOptions(context, node.server_name) if context else None,
    )


def tune(parameters: pika.connection.Parameters) -> pika.connection.Parameters:
    """These parameters with time limits: pika's default waits for ever for a broker that blocks publishers."""
    parameters.heartbeat = int(HEARTBEAT.total_seconds())
    parameters.blocked_connection_timeout = BLOCKED_LIMIT.total_seconds()
    parameters.socket_timeout = CONNECT_LIMIT.total_seconds()
    parameters.stack_timeout = 2 * CONNECT_LIMIT.total_seconds()
    parameters.connection_attempts = 1
    return parameters


def connect(parameters: Sequence[pika.connection.Parameters], *, name: str) -> pika.BlockingConnection:
    """Open a connection to the first of these brokers that answers; `name` is what an operator sees in RabbitMQ."""
    return pika.BlockingConnection([_named(each, name) for each in parameters])


def closed(why: object) -> BrokerConnectionError:
    """What Dramatiq's consumer threads understand: they wait and consume again."""
    return ConnectionClosed(str(why))  # type: ignore[no-untyped-call]  # dramatiq 2.2.1 leaves it untyped


def _named(parameters: pika.connection.Parameters, name: str) -> pika.connection.Parameters:
    named = copy.copy(parameters)
    named.client_properties = {"connection_name": name}
    return named
