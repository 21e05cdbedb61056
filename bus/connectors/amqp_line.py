"""One AMQP connection with one channel in confirm mode, used by one thread at a time; confirms come in any order."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from amqp import Connection, Message, spec
from amqp.exceptions import AccessRefused, AMQPError, ChannelError, NotAllowed, NotFound

from bus.connectors.addresses import cause_of_no_connection, permitted_addresses
from bus.connectors.amqp_watch import ended_at
from bus.connectors.deadline import Deadline
from bus.connectors.masking import Masking, masking
from bus.errors import (
    ConfigurationError,
    DeliveryFailure,
    EndpointDown,
    Exchange,
    OutcomeUnknown,
    PermanentFailure,
    TransientFailure,
)
from bus.tls import TlsFiles, client_context, tls_trouble

CONNECT_TIMEOUT = 5.0
"""Seconds for the connection, and for each step of the login."""
HEARTBEAT = 30
"""Seconds."""
SETTLED = timedelta(seconds=1)
"""A line idle for longer is looked at before it is used: the broker may have closed it."""
SHORTEST_WAIT = 0.001
"""py-amqp spins on half a frame when it is given no time at all."""

LOST = (AMQPError, OSError)
"""Everything py-amqp raises when a connection or channel is gone; TLS and time-outs are OSErrors."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a broker is and who logs in."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: bool
    files: TlsFiles = TlsFiles()
    server_name: str = ""
    """The name its certificate must bear; empty: the host's."""
    is_external: bool = False
    """Our certificate is the login (SASL EXTERNAL)."""
    name: str
    """What the broker's own tools show."""

    @property
    def secrets(self) -> Masking:
        return masking((self.password,))

    def as_user(self, user: str, password: str) -> Target:
        return replace(self, user=user, password=password)


@dataclass(frozen=True)
class Publication:
    """A message as it will stand on the wire, but for its user_id."""

    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: bytes
    mandatory: bool = True

    def record(self) -> bytes:
        """What an attempt keeps of it."""
        fields = {**self.properties, **self.headers}
        lines = [f"basic.publish {self.exchange} {self.routing_key}", *(f"{name}: {fields[name]}" for name in fields)]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Landed = Exchange | DeliveryFailure
"""What became of a publication: the broker has it, or why not."""


class Line:
    """Opened with `open`. When `is_broken` it must be dropped: its channel's state is not known any more."""

    def __init__(self, connection: Any, *, user: str, secrets: Masking) -> None:
        self.is_broken = False
        self._connection = connection
        self._user = user
        self._secrets = secrets
        self._used_at = time.monotonic()
        self._published = 0
        self._waiting: dict[int, Publication] = {}
        """Delivery tag → what has no confirm yet, in the order of the tags."""
        self._answers: dict[int, str] = {}
        self._returned: dict[str, str] = {}
        """Idempotency key → why no queue took it."""
        self._channel = connection.channel()
        self._channel.events["basic_ack"].add(lambda tag, multiple: self._note(tag, multiple, "basic.ack"))
        self._channel.events["basic_nack"].add(lambda tag, multiple: self._note(tag, multiple, "basic.nack"))
        self._channel.events["basic_return"].add(lambda reason, _, __, message: self._note_return(reason, message))
        self._channel.confirm_select()

    @classmethod
    def open(cls, target: Target, *, deadline: Deadline) -> Line:
        """
        Raises:
            EndpointDown: there is no connection, or the login is refused.
        """
        try:
            addresses = permitted_addresses(target.host, target.port)
        except (OSError, UnicodeError) as error:
            raise EndpointDown(cause_of_no_connection(error), str(error)) from error
        try:
            if target.tls:
                client_context(target.files)  # says which file is wrong; py-amqp would say that something is
        except ConfigurationError as error:
            raise EndpointDown("endpoint.tls", str(error)) from error
        failure = EndpointDown("endpoint.connect-timeout", "no time left to connect")
        for address in addresses:
            if not deadline.remaining:
                break
            try:
                return cls._on(_connected(target, address, deadline), target)
            except LOST as error:
                failure = _no_connection(target, error)
                failure.__cause__ = error
        raise failure

    @classmethod
    def _on(cls, connection: Any, target: Target) -> Line:
        try:
            return cls(connection, user=target.user, secrets=target.secrets)
        except LOST:
            connection.collect()
            raise

    def is_usable(self, *, idle_limit: timedelta) -> bool:
        """False where the broker closed it meanwhile, or its heartbeats were left out for too long."""
        idle = time.monotonic() - self._used_at
        if idle > idle_limit.total_seconds():
            return False
        if idle < SETTLED.total_seconds():
            return True
        try:
            while self._take(SHORTEST_WAIT):
                pass
        except LOST:
            return False
        return True

    def publish(self, publications: Sequence[Publication], deadline: Deadline) -> list[Landed | None]:
        """Publish them in order without waiting in between; returns when the broker has answered for each.

        An Exchange: the broker has it on disk in every queue bound for its routing key. A failure is one of these:
        TransientFailure: no queue is bound for its routing key. EndpointDown: the exchange is missing or this user may
        not write to it; nothing was taken. PermanentFailure: the broker refuses this message. OutcomeUnknown: there
        was no confirm, or a negative one: of several queues some may have it. None: another one of them may be to
        blame for the end of the channel; publish it again, alone.
        """
        first = self._published + 1
        self._waiting, self._answers, self._returned = {}, {}, {}
        lost: Landed | None = None
        try:
            with ended_at(deadline, self._connection) as over:
                self._fly(publications, deadline)
            self.is_broken = over.is_set()
        except ChannelError as error:
            self.is_broken = True
            if len(self._waiting) == 1 == len(publications):
                lost = _refusal(error, self._secrets)
        except LOST as error:
            self.is_broken = True
            timed_out = isinstance(error, TimeoutError) or not deadline.remaining
            cause = "outcome.timeout" if timed_out else "outcome.connection-cut"
            lost = OutcomeUnknown(cause, _text_of(error, self._secrets))
            lost.__cause__ = error
        self._used_at = time.monotonic()
        return [
            self._judged(publication, self._answers.get(tag, ""), lost)
            for tag, publication in enumerate(publications, start=first)
        ]

    def look_for(self, exchange: str) -> None:
        """
        Raises:
            EndpointDown: the exchange is missing, or the connection was lost.
        """
        try:
            self._channel.exchange_declare(exchange, "topic", passive=True)
        except NotFound as error:
            raise EndpointDown("endpoint.missing-exchange", _text_of(error, self._secrets)) from error
        except LOST as error:
            raise EndpointDown("endpoint.broker-closed", _text_of(error, self._secrets)) from error

    def close(self) -> None:
        """Say goodbye to the broker."""
        try:
            self._connection.close()
        except LOST:
            self.drop()

    def drop(self) -> None:
        """Give the connection up without a word."""
        self._connection.collect()

    def _fly(self, publications: Sequence[Publication], deadline: Deadline) -> None:
        for publication in publications:
            self._write(publication, deadline)
        while self._waiting:
            if not deadline.remaining:
                raise TimeoutError("no confirm in time")
            self._take(deadline.remaining)

    def _write(self, publication: Publication, deadline: Deadline) -> None:
        message = Message(
            publication.body,
            application_headers=dict(publication.headers),
            user_id=self._user,
            **publication.properties,
        )
        arguments = (0, publication.exchange, publication.routing_key, publication.mandatory, False)
        self._published += 1
        self._waiting[self._published] = publication
        # Not basic_publish: it reads with a time-out of zero first, and then spins on half a frame.
        with self._connection.transport.having_timeout(max(deadline.remaining, SHORTEST_WAIT)):
            self._channel.send_method(spec.Basic.Publish, "Bssbb", arguments, message)

    def _take(self, seconds: float) -> bool:
        """Take what the broker sent; False: nothing came within that time."""
        try:
            self._connection.drain_events(timeout=max(seconds, SHORTEST_WAIT))
        except TimeoutError as error:
            if error.errno is not None:  # ETIMEDOUT: the network gave up, not we
                raise
            return False
        return True

    def _judged(self, publication: Publication, answer: str, lost: Landed | None) -> Landed | None:
        returned = self._returned.get(publication.headers["idempotency_key"], "") if answer else ""
        exchange = Exchange(sent=publication.record(), received=(returned or answer).encode())
        if returned:
            return TransientFailure("target.unroutable", returned, exchange=exchange)
        if answer == "basic.nack":
            return OutcomeUnknown("outcome.not-confirmed", "the broker answered basic.nack", exchange=exchange)
        if answer:
            return exchange
        if isinstance(lost, DeliveryFailure):
            failure = type(lost)(lost.cause, lost.detail, exchange=replace(exchange, received=lost.exchange.received))
            failure.__cause__ = lost.__cause__
            return failure
        return None

    def _note(self, tag: int, multiple: bool, answer: str) -> None:
        # RabbitMQ 3.10 goes on to nack on an AMQP channel whose first message met a queue without a leader.
        self.is_broken |= answer == "basic.nack"
        for known in [known for known in self._waiting if known <= tag] if multiple else [tag]:
            self._waiting.pop(known, None)
            self._answers[known] = answer

    def _note_return(self, reason: Any, message: Any) -> None:
        # It comes before the ack of the same message.
        key = str(message.headers.get("idempotency_key", ""))
        self._returned[key] = self._secrets.text(f"basic.return {reason.reply_code} {reason.reply_text}")


def _connected(target: Target, address: str, deadline: Deadline) -> Any:
    seconds = max(min(CONNECT_TIMEOUT, deadline.remaining), SHORTEST_WAIT)
    connection = Connection(
        host=f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}",
        userid=target.user,
        password=target.password,
        login_method="EXTERNAL" if target.is_external else "PLAIN",
        virtual_host=target.vhost,
        ssl=_tls(target) if target.tls else False,
        connect_timeout=seconds,
        read_timeout=seconds,
        write_timeout=seconds,
        heartbeat=HEARTBEAT,
        # py-amqp's default gives a connection up when the network is silent for one second.
        socket_settings={socket.TCP_USER_TIMEOUT: HEARTBEAT * 1000},
        client_properties={"connection_name": target.name, "product": "plantbus"},
    )
    with ended_at(deadline, connection) as over:
        try:
            connection.connect()
        except LOST:
            connection.collect()
            if not over.is_set():
                raise
    if over.is_set():
        connection.collect()
        raise TimeoutError("the login did not end in time")
    return connection


def _tls(target: Target) -> dict[str, Any]:
    # py-amqp checks the host name only where it is told one.
    options: dict[str, Any] = {
        "server_hostname": target.server_name or target.host,
        "cert_reqs": ssl.CERT_REQUIRED,
        "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
    }
    files = target.files
    named = {"ca_certs": files.ca_file, "certfile": files.certificate, "keyfile": files.key}
    return options | {name: path for name, path in named.items() if path}


def _no_connection(target: Target, error: Exception) -> EndpointDown:
    if isinstance(error, AccessRefused):
        return EndpointDown("endpoint.credentials-refused", f"the broker refuses user {target.user!r}")
    if isinstance(error, NotAllowed):
        return EndpointDown("endpoint.credentials-refused", f"no vhost {target.vhost!r} for user {target.user!r}")
    if isinstance(error, AMQPError):
        return EndpointDown("endpoint.broker-closed", _text_of(error, target.secrets))
    if target.tls and (trouble := tls_trouble(error, option="ca_file", own="certfile= and keyfile= of its URL")):
        return EndpointDown("endpoint.tls", target.secrets.text(trouble))
    return EndpointDown(cause_of_no_connection(error), _text_of(error, target.secrets))


def _refusal(error: ChannelError, secrets: Masking) -> DeliveryFailure:
    """The broker closed the channel instead of taking the message."""
    detail = _text_of(error, secrets)
    exchange = Exchange(received=detail.encode())
    if isinstance(error, AccessRefused):
        failure: DeliveryFailure = EndpointDown("endpoint.credentials-refused", detail, exchange=exchange)
    elif isinstance(error, NotFound):
        failure = EndpointDown("endpoint.missing-exchange", detail, exchange=exchange)
    else:
        failure = PermanentFailure("target.refused", detail, exchange=exchange)
    failure.__cause__ = error
    return failure


def _text_of(error: Exception, secrets: Masking) -> str:
    return secrets.text(str(error) or type(error).__name__)
