"""URLs as texts may show them: never a login, never a query, however badly the URL was written."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")


def shown_url(url: str) -> str:
    """Scheme, and what follows the last `@`, without query and fragment; a port that is no number as `***`.

    Made for URLs that nobody could read: a `/`, `?` or `@` in a password must not bring half of it into a text.
    """
    scheme, mark, rest = url.strip().partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        scheme, mark, rest = "", "", url.strip()
    if not scheme.startswith("sqlite"):  # a file; nobody logs in there, and its path may hold an @
        rest = rest.rpartition("@")[2]
    rest = rest.partition("?")[0].partition("#")[0]
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.rpartition(":")
    if colon and not host.endswith(":") and not port.isdecimal() and not authority.endswith("]"):
        authority = f"{host}:***"
    return f"{scheme}{mark}{authority}{slash}{path}"
