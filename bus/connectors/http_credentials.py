"""Who we are at an HTTP target: basic or bearer, read again when the target refuses it."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bus.connectors.options import Options, SecretSource
from bus.errors import ConfigurationError, SecretUnavailable
from bus.model.secret import Secret


@dataclass(frozen=True, slots=True)
class Authorization:
    """The header `Authorization` and every spelling of the secret that must not be kept."""

    header: str
    spellings: tuple[str, ...]


NOBODY = Authorization("", ())


class Credentials:
    """Remembers the authorization in use; safe to use from many threads."""

    def __init__(self, read: Callable[[], Authorization]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._current: Authorization | None = None

    def current(self) -> Authorization:
        """
        Raises:
            ConfigurationError: the secret reference cannot be resolved.
        """
        with self._lock:
            if self._current is None:
                self._current = self._read()
            return self._current

    def renewed(self, refused: Authorization) -> Authorization | None:
        """A fresh authorization if it differs from the one refused, else None.

        Offering the same password again would only bring the target nearer to locking the user.
        """
        with self._lock:
            self._current = self._read()
            return None if self._current == refused else self._current


def basic(user: str, password: Callable[[], Secret]) -> Credentials:
    """RFC 7617, UTF-8."""

    def read() -> Authorization:
        value = password().reveal()
        token = base64.b64encode(f"{user}:{value}".encode()).decode()
        return Authorization(f"Basic {token}", (token, token.rstrip("="), value))

    return Credentials(read)


def bearer(token: Callable[[], Secret]) -> Credentials:
    """RFC 6750. A token that no header can carry is none: it is the endpoint's trouble, and no message's."""

    def read() -> Authorization:
        secret = token()
        value = secret.reveal()
        if not value.isprintable() or value != value.strip():
            raise SecretUnavailable(
                f"secret {secret.reference}: a token is one line of printable letters, without blanks around it"
            )
        return Authorization(f"Bearer {value}", (value,))

    return Credentials(read)


def nobody() -> Credentials:
    return Credentials(lambda: NOBODY)


def read_credentials(options: Options, *, secret: SecretSource) -> Credentials:
    """Options `token` (bearer), or `user` and `password` (basic), or none of them.

    Raises:
        ConfigurationError: half of a login, or two.
    """
    has_token, has_user, has_password = (options.has(name) for name in ("token", "user", "password"))
    if has_token and (has_user or has_password):
        raise ConfigurationError(
            "found options token and user/password; keep token (bearer) or user and password (basic)"
        )
    if has_token:
        return bearer(lambda: secret("token"))
    if has_user != has_password:
        raise ConfigurationError("found one of the options user and password; basic authentication takes both")
    if has_user:
        return basic(options.text("user"), lambda: secret("password"))
    return nobody()
