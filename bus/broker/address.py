"""Where the broker is: AMQP URLs with failover and TLS, never shown with their passwords."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from bus.errors import ConfigurationError
from bus.model.amqp_options import read_amqp_options
from bus.model.shown_url import shown_url
from bus.tls import TlsFiles, client_context, is_loopback

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
    is_external: bool = False
    """The client certificate is the login (SASL EXTERNAL); `user` is who it makes us."""

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def server_name(self) -> str:
        """The name the server's certificate must bear."""
        return str(self.tls["server_hostname"]) if self.tls else self.host

    @property
    def is_unencrypted(self) -> bool:
        """Whether everything goes over a network as it is."""
        return self.tls is None and not is_loopback(self.host)

    def context(self) -> ssl.SSLContext | None:
        """The TLS context of this node, its files read now; None: no TLS.

        Raises:
            ConfigurationError: which file is wrong, and how.
        """
        if self.tls is None:
            return None
        ca_file, certificate, key = (self.tls.get(name, "") for name in _OPTIONS.values())
        return client_context(TlsFiles(ca_file=ca_file, certificate=certificate, key=key))

    def __str__(self) -> str:
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}:***@{self.server}/{self.vhost}"


def mask_url(url: str) -> str:
    """The URL (or list of URLs) as a text may show it: no logins, no options."""
    return ";".join(shown_url(node) for node in _NEXT_NODE.split(url))


def read_addresses(url: str) -> tuple[BrokerAddress, ...]:
    """The nodes of a URL, several separated by `;` and tried in turn. A `;` in a password is written %3B.

    `amqps://` checks the server's certificate and its host name; query options as in RabbitMQ's URI specification:
    `cacertfile`, `certfile`, `keyfile`, `server_name_indication`; `auth_mechanism=external`: the certificate logs in.

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
    given = _options(shown, parts.scheme, parts.query)
    return BrokerAddress(
        host=host,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username),
        password=unquote(parts.password or ""),
        vhost=unquote(parts.path[1:]) or "/",
        tls=_tls(host, given) if parts.scheme == "amqps" else None,
        is_external=given.get("auth_mechanism") == "external",
    )


def _options(shown: str, scheme: str, query: str) -> dict[str, str]:
    try:
        return read_amqp_options(scheme, query)
    except ConfigurationError as error:
        raise ConfigurationError(f"broker URL {shown}: {error}") from error


def _tls(host: str, given: dict[str, str]) -> dict[str, Any]:
    options: dict[str, Any] = {target: given[name] for name, target in _OPTIONS.items() if given.get(name)}
    # py-amqp checks the host name only where it is told one, and kombu keeps the first one over a failover.
    options["server_hostname"] = given.get("server_name_indication", host)
    options["cert_reqs"] = ssl.CERT_REQUIRED
    options["tls_minimum_version"] = ssl.TLSVersion.TLSv1_2
    return options
