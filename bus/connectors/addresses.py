"""Which addresses a connector may call: everything configured, except link-local ones."""

from __future__ import annotations

import ipaddress
import socket
import ssl


class AddressRefused(OSError):
    """The name leads to link-local addresses only."""


def is_link_local(address: str) -> bool:
    """169.254/16 and fe80::/10, also written as IPv4-mapped IPv6 or with a zone."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_link_local)


def permitted_addresses(host: str, port: int) -> list[str]:
    """Every address of the host except link-local ones, in the resolver's order.

    The check stands after the resolver, so that no name and no spelling of an address gets around it. The
    resolver has no time-out of ours: it gives up by its own (resolv.conf), and nothing was sent then.

    Raises:
        AddressRefused: nothing but link-local addresses was found.
        socket.gaierror, UnicodeError: the name is not known, or cannot be one.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    permitted = [each for each in addresses if not is_link_local(each)]
    if not permitted:
        raise AddressRefused(f"{host} leads to {', '.join(addresses)}, which is link-local")
    return permitted


def cause_of_no_connection(obstacle: BaseException | None) -> str:
    """The `endpoint.*` cause for what the system said when no connection came about."""
    for kind, cause in _CAUSES:
        if isinstance(obstacle, kind):
            return cause
    return "endpoint.unreachable"


_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (AddressRefused, "endpoint.address-refused"),
    (socket.gaierror, "endpoint.dns"),
    (UnicodeError, "endpoint.dns"),
    (ssl.SSLError, "endpoint.tls"),
    (TimeoutError, "endpoint.connect-timeout"),
    (ConnectionRefusedError, "endpoint.refused-connection"),
)
"""The first that fits: several of them are OSErrors of one another's kind."""
