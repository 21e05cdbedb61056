"""AMQP 0-9-1 towards a topic exchange, `bus.out` as a rule: every message persistent and confirmed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from urllib.parse import SplitResult, unquote, urlsplit

from bus.connectors.addresses import is_link_local
from bus.connectors.amqp_line import Line, Publication, Target
from bus.connectors.deadline import Deadline
from bus.connectors.options import Options, SecretSource
from bus.errors import ConfigurationError, DeliveryFailure, EndpointDown, Exchange, PermanentFailure
from bus.model.amqp_options import read_amqp_options
from bus.model.envelope import routing_key_of, to_properties
from bus.model.system import Endpoint
from bus.ports import Answer, Parcel
from bus.tls import TlsFiles

EXCHANGE = "bus.out"
PORTS = {"amqp": 5672, "amqps": 5671}
IDLE_LIMIT = timedelta(seconds=20)
"""A connection idle for longer is replaced: nobody served its heartbeats."""
LONGEST_NAME = 255
"""Bytes of a short string in AMQP 0-9-1."""
LARGEST_NUMBER = 2**31 - 1
"""py-amqp writes larger numbers in headers as a type that RabbitMQ does not know."""


class AmqpAdapter:
    """Publishes under `<site>.<system>.<type>` with the properties of a native message. Options:

    `user` and `password` (a secret reference), with the address amqp(s)://host[:port]/vhost; or `url`: a secret
    reference to a whole URL with its login, the address is only shown then. Several nodes are separated by `;`.
    Optional: `exchange` (default bus.out), `ca_file` (PEM of the only authorities to trust). The query of a URL takes
    `cacertfile`, `certfile`, `keyfile`, `server_name_indication` and `auth_mechanism`, as that of the bus's broker.

    Its consumers deduplicate by `message_id`, the identity of the fact: a repeat after a lost confirm is absorbed, so
    `remembers_keys` is true. The delivery's key goes along in the header `idempotency_key`; it alone tells a deliberate
    replay from a repeat.
    """

    remembers_keys = True

    def __init__(self, endpoint: Endpoint, *, secret: SecretSource) -> None:
        options = Options(endpoint)
        self._timeout = endpoint.timeout
        self._exchange = options.text("exchange", EXCHANGE)
        self._mandatory = options.flag("mandatory", default=True)
        self._read_targets = _target_source(endpoint, options, secret)
        options.finish()
        self._idle: list[Line] = []
        self._lock = threading.Lock()

    def send(self, parcel: Parcel) -> Answer:
        (landed,) = self.send_many([parcel])
        if isinstance(landed, DeliveryFailure):
            raise landed
        return landed

    def send_many(self, parcels: Sequence[Parcel]) -> list[Answer | DeliveryFailure]:
        """Publish them in one go; each ends as it would alone."""
        ended: list[Answer | DeliveryFailure | None] = []
        flying: list[tuple[int, Publication]] = []
        for parcel in parcels:
            try:
                publication = _publication(parcel, exchange=self._exchange, mandatory=self._mandatory)
            except DeliveryFailure as error:
                ended.append(error)
            else:
                flying.append((len(ended), publication))
                ended.append(None)
        for (place, _), landed in zip(flying, self._publish([each for _, each in flying]), strict=True):
            ended[place] = landed
        # What went down with another one's channel is published again, alone.
        return [each if each is not None else self._alone(parcels[place]) for place, each in enumerate(ended)]

    def _alone(self, parcel: Parcel) -> Answer | DeliveryFailure:
        try:
            return self.send(parcel)
        except DeliveryFailure as error:
            return error

    def _publish(self, publications: Sequence[Publication]) -> list[Answer | DeliveryFailure | None]:
        if not publications:
            return []
        deadline = Deadline.after(self._timeout)
        try:
            line = self._take_line(deadline)
        except DeliveryFailure as error:
            return [error for _ in publications]
        try:
            landed = line.publish(publications, deadline)
        except BaseException:
            # Whatever is still on its way there must not be read as the answer to the next message.
            line.drop()
            raise
        if line.is_broken:
            line.drop()
        else:
            self._give_back(line)
        return [Answer(exchange=each) if isinstance(each, Exchange) else each for each in landed]

    def check(self) -> None:
        """Log in anew and look for the exchange.

        Raises:
            EndpointDown: no connection, no login or no exchange.
        """
        line = self._open_line(Deadline.after(self._timeout))
        try:
            line.look_for(self._exchange)
        finally:
            line.drop()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _take_line(self, deadline: Deadline) -> Line:
        while True:
            with self._lock:
                line = self._idle.pop() if self._idle else None
            if line is None:
                return self._open_line(deadline.halved())
            if line.is_usable(idle_limit=IDLE_LIMIT):
                return line
            line.drop()

    def _give_back(self, line: Line) -> None:
        with self._lock:
            self._idle.append(line)

    def _open_line(self, deadline: Deadline) -> Line:
        """A line to the first node that takes one; raises the last node's EndpointDown."""
        try:
            *others, last = self._read_targets()
        except ConfigurationError as error:
            raise EndpointDown("endpoint.credentials-missing", str(error)) from error
        for target in others:
            with suppress(EndpointDown):
                return Line.open(target, deadline=deadline.halved())
        return Line.open(last, deadline=deadline)


def _publication(parcel: Parcel, *, exchange: str, mandatory: bool) -> Publication:
    """
    Raises:
        PermanentFailure: AMQP cannot carry a name or a number of the message.
    """
    message = parcel.message
    properties, headers = to_properties(message)
    headers["idempotency_key"] = parcel.key
    routing_key = routing_key_of(message)
    for name, value in (("routing key", routing_key), *properties.items()):
        if isinstance(value, str) and len(value.encode()) > LONGEST_NAME:
            raise PermanentFailure("request.invalid", f"{name} is longer than {LONGEST_NAME} bytes: {value[:40]!r}…")
    if message.sequence is not None and abs(message.sequence) > LARGEST_NUMBER:
        raise PermanentFailure("request.invalid", f"sequence {message.sequence} is beyond {LARGEST_NUMBER}")
    return Publication(exchange, routing_key, properties, headers, message.body, mandatory)


def _target_source(endpoint: Endpoint, options: Options, secret: SecretSource) -> Callable[[], Sequence[Target]]:
    ca_file = options.text("ca_file")
    if options.has("url"):
        if "@" in endpoint.address:
            raise ConfigurationError(f"endpoint {endpoint.name!r}: the address bears a login; the option url has it")
        return lambda: _read_targets(secret("url").reveal(), endpoint=endpoint, ca_file=ca_file)
    user = options.text("user")
    if not user or not options.has("password"):
        raise ConfigurationError(f"endpoint {endpoint.name!r}: expected options user and password, or url")
    targets = _read_targets(endpoint.address, endpoint=endpoint, ca_file=ca_file)
    if any(target.user or target.password for target in targets):
        raise ConfigurationError(f"endpoint {endpoint.name!r}: the address bears a login; use the options instead")

    def read() -> Sequence[Target]:
        password = secret("password").reveal()
        return [target.as_user(user, password) for target in targets]

    return read


def _read_targets(urls: str, *, endpoint: Endpoint, ca_file: str) -> Sequence[Target]:
    """The nodes of a broker, separated by `;`.

    Raises:
        ConfigurationError: one is no AMQP URL, or an option in its query is wrong; the text never quotes the URL, it
            may bear a password.
    """
    targets = [_read_target(url.strip(), endpoint=endpoint, ca_file=ca_file) for url in urls.split(";") if url.strip()]
    if not targets:
        raise ConfigurationError(f"endpoint {endpoint.name!r}: the broker's URL is empty")
    return targets


def _read_target(url: str, *, endpoint: Endpoint, ca_file: str) -> Target:
    expected = f"endpoint {endpoint.name!r}: the broker's URL is not amqp(s)://host[:port]/vhost"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Without its cause: that may quote half of a password.
        raise ConfigurationError(expected) from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ConfigurationError(expected)
    if is_link_local(parts.hostname):
        raise ConfigurationError(f"endpoint {endpoint.name!r}: {parts.hostname} is link-local; it is not called")
    given = _options_of(parts, endpoint=endpoint, ca_file=ca_file)
    return Target(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        vhost=unquote(parts.path[1:]) or "/",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=parts.scheme == "amqps",
        files=TlsFiles(
            ca_file=ca_file or given.get("cacertfile", ""),
            certificate=given.get("certfile", ""),
            key=given.get("keyfile", ""),
        ),
        server_name=given.get("server_name_indication", parts.hostname),
        is_external=given.get("auth_mechanism") == "external",
        name=f"plantbus endpoint {endpoint.name}",
    )


def _options_of(parts: SplitResult, *, endpoint: Endpoint, ca_file: str) -> dict[str, str]:
    try:
        if ca_file and parts.scheme != "amqps":
            raise ConfigurationError("option ca_file without TLS; amqps:// speaks it")
        return read_amqp_options(parts.scheme, parts.query)
    except ConfigurationError as error:
        raise ConfigurationError(f"endpoint {endpoint.name!r}: {error}") from error
