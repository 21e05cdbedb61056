"""Which addresses a connector may call: everything configured, except link-local ones."""

from __future__ import annotations

import ipaddress
import socket
import ssl


class AddressRefused(OSError):
    """The name leads to link-local addresses only."""


_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
"""Where clouds hand out a machine's credentials, outside of 169.254/16: AWS over IPv6, Alibaba."""

_CARRYING_IPV4 = {
    ipaddress.IPv6Network("::/96"): 0,  # IPv4-compatible
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,  # IPv4-mapped
    ipaddress.IPv6Network("::ffff:0:0:0/96"): 0,  # IPv4-translated, RFC 2765
    ipaddress.IPv6Network("64:ff9b::/96"): 0,  # NAT64, RFC 6052
    ipaddress.IPv6Network("64:ff9b:1::/48"): 0,  # NAT64 of a site's own, RFC 8215; only its /96 form can be told
    ipaddress.IPv6Network("2002::/16"): 80,  # 6to4
}
"""IPv6 networks with an IPv4 address within theirs, and how many bits stand behind it."""


def is_link_local(address: str) -> bool:
    """169.254/16 and fe80::/10, and the metadata services of clouds; also where IPv6 carries an IPv4 address."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # Made anew without its zone, which is part of what is compared.
        ip = ipaddress.IPv6Address(int(ip))
    carried = [
        ipaddress.IPv4Address(int(ip) >> behind & 0xFFFF_FFFF) for net, behind in _CARRYING_IPV4.items() if ip in net
    ]
    return any(each.is_link_local or each in _METADATA for each in (ip, *carried))


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
