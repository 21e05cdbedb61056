"""What the query of an AMQP URL says about TLS and the login, as in RabbitMQ's URI specification."""

from __future__ import annotations

from urllib.parse import parse_qs

from bus.errors import ConfigurationError

OF_TLS = ("cacertfile", "certfile", "keyfile", "server_name_indication", "verify")
_KNOWN = (*OF_TLS, "auth_mechanism")
_MECHANISMS = ("plain", "external")


def read_amqp_options(scheme: str, query: str) -> dict[str, str]:
    """The options by name; a misspelled one must not leave out a check unnoticed.

    Raises:
        ConfigurationError: an option that nobody knows, that would leave out a check, or that has no effect there.
    """
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    if unknown := sorted(set(given) - {*_KNOWN}):
        raise ConfigurationError(f"unknown option {', '.join(map(repr, unknown))}; known: {', '.join(_KNOWN)}")
    if given.get("verify", "verify_peer") != "verify_peer":
        raise ConfigurationError("certificates are always checked; name your own authority with cacertfile=")
    if given.get("server_name_indication") == "":
        raise ConfigurationError(
            "server_name_indication is empty; it takes the name that the server's certificate bears"
        )
    if scheme != "amqps" and (useless := sorted(set(given) & {*OF_TLS})):
        raise ConfigurationError(f"{', '.join(useless)} without TLS; amqps:// speaks it")
    if (mechanism := given.get("auth_mechanism", "plain")) not in _MECHANISMS:
        raise ConfigurationError(f"auth_mechanism is one of {', '.join(_MECHANISMS)}")
    if mechanism == "external" and not given.get("certfile"):
        raise ConfigurationError("auth_mechanism=external logs in with a certificate: amqps://, certfile= and keyfile=")
    return given
