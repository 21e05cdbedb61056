"""Where the broker is: AMQP URLs with failover and TLS, never shown with their passwords."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from bus.errors import ConfigurationError
from bus.model.shown_url import shown_url

_PORTS = {"amqp": 5672, "amqps": 5671}
_NEXT_NODE = re.compile(r";\s*(?=amqps?://)")
_OPTIONS = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}
_EXAMPLE = "amqp://user:password@host:5672/vhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """One node of the broker and who logs in there."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    tls: dict[str, Any] | None
    """Options of py-amqp's TLS transport; None: no TLS."""

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}:***@{self.server}/{self.vhost}"


def mask_url(url: str) -> str:
    """The URL (or list of URLs) as a text may show it: no logins, no options."""
    return ";".join(shown_url(node) for node in _NEXT_NODE.split(url))


def read_addresses(url: str) -> tuple[BrokerAddress, ...]:
    """The nodes of a URL, several separated by `;` and tried in turn. A `;` in a password is written %3B.

    `amqps://` checks the server's certificate and its host name; query options as in RabbitMQ's URI specification:
    `cacertfile`, `certfile`, `keyfile`, `server_name_indication`.

    Raises:
        ConfigurationError: what is wrong with which URL, without its password.
    """
    addresses = tuple(_read(part.strip(), mask_url(url)) for part in url.split(";") if part.strip())
    if not addresses:
        raise ConfigurationError(f"no broker URL was given: {_EXAMPLE} is expected")
    if len({(address.user, address.vhost) for address in addresses}) > 1:
        raise ConfigurationError(f"{mask_url(url)}: the nodes of one broker have the same user and vhost")
    return addresses


def _read(url: str, shown: str) -> BrokerAddress:
    """`shown` stands in texts: a `;` in a password makes parts that nobody can tell a login in."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Without its text and cause: they may quote half of a password.
        raise ConfigurationError(
            f"broker URL {shown}: its host or port cannot be read; {_EXAMPLE} is expected"
        ) from None
    if parts.scheme not in _PORTS or not parts.hostname or not parts.username:
        raise ConfigurationError(f"broker URL {shown}: {_EXAMPLE} (or amqps://…) is expected")
    host = unquote(parts.hostname)
    return BrokerAddress(
        host=host,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        vhost=unquote(parts.path[1:]) or "/",
        tls=_tls(shown, host, parts.query) if parts.scheme == "amqps" else None,
    )


def _tls(shown: str, host: str, query: str) -> dict[str, Any]:
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    if given.get("verify", "verify_peer") != "verify_peer":
        raise ConfigurationError(
            f"broker URL {shown}: certificates are always checked; name your own authority with cacertfile="
        )
    options: dict[str, Any] = {target: given[name] for name, target in _OPTIONS.items() if name in given}
    # py-amqp checks the host name only where it is told one, and kombu keeps the first one over a failover.
    options["server_hostname"] = given.get("server_name_indication", host)
    options["cert_reqs"] = ssl.CERT_REQUIRED
    options["tls_minimum_version"] = ssl.TLSVersion.TLSv1_2
    return options
