"""TLS to PostgreSQL: over a network the server proves its name, or somebody said that the line needs no TLS."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy.engine import URL

from bus.errors import ConfigurationError
from bus.tls import is_loopback

_CHECKED, _OFF = "verify-full", "disable"


def with_checked_tls(url: URL) -> URL:
    """The address with libpq's `sslmode=verify-full` where the server is on another machine and nothing is said.

    libpq's own default speaks without TLS where the server has none, and never looks who answers. The authorities are
    those of `sslrootcert`, else the system's. `sslcert` and `sslkey` are our own certificate and its key.

    Raises:
        ConfigurationError: a mode that encrypts without knowing to whom.
    """
    if not _is_remote(url):
        return url
    mode = _said(url, "sslmode", "PGSSLMODE") or _CHECKED
    if mode == _OFF:
        return url
    if mode != _CHECKED:
        raise ConfigurationError(
            f"store: sslmode={mode} encrypts without knowing who answers; write sslmode={_CHECKED} (with sslrootcert, "
            f"the file of your authority), or sslmode={_OFF} where the line needs no TLS"
        )
    options = {"sslmode": _CHECKED}
    if not _said(url, "sslrootcert", "PGSSLROOTCERT") and not Path("~/.postgresql/root.crt").expanduser().exists():
        options["sslrootcert"] = "system"
    return url.update_query_dict(options)


def is_unencrypted(url: URL) -> bool:
    """Whether everything goes over a network as it is, because somebody said so."""
    return _is_remote(url) and _said(url, "sslmode", "PGSSLMODE") == _OFF


def _is_remote(url: URL) -> bool:
    hosts = _said(url, "host", "") or url.host or os.environ.get("PGHOST", "")
    # libpq calls hostaddr, whatever host says; and a service is a file of its own that may name any host.
    addresses = _said(url, "hostaddr", "PGHOSTADDR")
    service = _said(url, "service", "PGSERVICE")
    return bool(service) or any(not _is_here(host) for host in (addresses or hosts).split(","))


def _is_here(host: str) -> bool:
    """A socket in a folder, or the loopback."""
    return not host or host.startswith(("/", "@")) or is_loopback(host)


def _said(url: URL, option: str, variable: str) -> str:
    value = url.query.get(option, "")
    return (value if isinstance(value, str) else ",".join(value)) or os.environ.get(variable, "")


_REMEDIES = {
    "certificate verify failed": "nobody here trusts its certificate, or it expired: name the file of its authority "
    "with sslrootcert=, or give it a new one",
    "does not match host name": "write the name that its certificate bears into the address",
    "server does not support SSL": "switch TLS on there, or say sslmode=disable where the line needs none",
    "root certificate file": "sslrootcert= names the file of its authority",
    "requires a valid client certificate": "name ours with sslcert= and sslkey=",
    "certificate required": "it asks for a client certificate: name ours with sslcert= and sslkey=",
    "certificate authentication failed": "the name in our certificate must be the login's",
    "unknown ca": "it does not trust the authority of our certificate",
    "certificate expired": "our certificate has expired: it needs a new one",
    "SSL SYSCALL error": "perhaps it does not take our certificate (sslcert=, sslkey=)",
    "SSL connection has been closed": "perhaps it does not take our certificate (sslcert=, sslkey=)",
    "has group or world access": "type chmod 600 for it",
}
"""By words of libpq and of the server."""


def remedied(line: str) -> str:
    """What libpq said, and what to do where it is about TLS."""
    return next((f"{line}; {remedy}" for words, remedy in _REMEDIES.items() if words in line), line)
