"""One AMQP connection, opened with time-outs, heartbeats and failover; every way it can be lost is one tuple."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed
from kombu.transport.pyamqp import Connection

from bus.broker.address import BrokerAddress
from bus.broker.frames import tolerant_frame_handler
from bus.errors import BrokerUnavailable, ConfigurationError
from bus.tls import tls_trouble

HEARTBEAT = timedelta(seconds=30)
CONNECT_LIMIT = timedelta(seconds=5)
ANSWER_LIMIT = timedelta(seconds=10)
"""How long one read or write of a synchronous exchange with the broker may take."""

LOST = (AMQPError, OSError)
"""Everything py-amqp raises when a connection or channel is gone; TLS and time-outs are OSErrors."""


def connect(
    addresses: Sequence[BrokerAddress],
    *,
    name: str,
    limit: timedelta = CONNECT_LIMIT,
    on_blocked: Callable[[str], None] | None = None,
    on_unblocked: Callable[[], None] | None = None,
) -> Any:
    """A connection to the first node that takes one within `limit`; `name` is what the broker's own tools show.

    Raises:
        BrokerUnavailable: with each node's answer.
    """
    answers = []
    for address in addresses:
        connection = _connection(address, name=name, limit=limit, on_blocked=on_blocked, on_unblocked=on_unblocked)
        try:
            address.context()  # says which file is wrong; py-amqp would say that something is
            connection.connect()
        except ConfigurationError as error:
            answers.append(f"{address} is not called: {error}")
        except LOST as error:
            connection.collect()
            answers.append(_answer(address, error))
        else:
            return connection
    raise BrokerUnavailable("; ".join(answers))


def drop(connection: Any) -> None:
    """Give a connection up without a word to the broker."""
    connection.collect()


def drain(connection: Any, *, within: timedelta) -> bool:
    """Take what the broker sent; False: nothing came within that time. Never waits for zero: py-amqp would spin.

    Raises:
        LOST: the connection or channel is gone.
    """
    try:
        connection.drain_events(timeout=max(within.total_seconds(), 0.001))
    except TimeoutError as error:
        if error.errno is not None:  # ETIMEDOUT: the network gave up, not we
            raise
        return False
    return True


def _connection(address: BrokerAddress, *, name: str, limit: timedelta, on_blocked: Any, on_unblocked: Any) -> Any:
    return Connection(
        host=address.server,
        userid=address.user,
        password=address.password,
        login_method="EXTERNAL" if address.is_external else "PLAIN",
        virtual_host=address.vhost,
        ssl=dict(address.tls) if address.tls else False,
        connect_timeout=max(limit.total_seconds(), 0.001),
        read_timeout=ANSWER_LIMIT.total_seconds(),
        write_timeout=ANSWER_LIMIT.total_seconds(),
        heartbeat=HEARTBEAT.total_seconds(),
        # py-amqp's default gives a connection up when the network is silent for one second.
        socket_settings={socket.TCP_USER_TIMEOUT: int(HEARTBEAT.total_seconds() * 1000)},
        client_properties={"connection_name": name, "product": "plantbus"},
        frame_handler=tolerant_frame_handler,
        on_blocked=on_blocked,
        on_unblocked=on_unblocked,
    )


def _answer(address: BrokerAddress, error: Exception) -> str:
    if address.tls and (trouble := tls_trouble(error, option="cacertfile=", own="certfile= and keyfile=")):
        return f"{address}: {trouble}"
    if address.is_external and isinstance(error, AccessRefused):
        return (
            f"{address} refused our certificate as a login: the name in it must be a user's there "
            "(ssl_cert_login_from), perhaps made by `bus topology apply`"
        )
    if address.is_external and "auth mechanism" in str(error):
        return (
            f"{address} takes no certificate as a login: switch on its plugin rabbitmq_auth_mechanism_ssl and "
            "the mechanism EXTERNAL"
        )
    if isinstance(error, AccessRefused):
        return f"{address} refused user {address.user!r}: check its password, or run `bus topology apply`"
    if isinstance(error, NotAllowed):
        return f"{address} has no vhost {address.vhost!r} for user {address.user!r}: run `bus topology apply`"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {address}: start RabbitMQ there, or correct the URL"
    return f"{address} cannot be reached: {error or type(error).__name__}"
