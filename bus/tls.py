"""TLS towards others: certificate and host name always checked; and what went wrong, with what to do about it."""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from dataclasses import dataclass
from typing import NoReturn

from bus.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. `ca_file`: the only authorities to trust, empty: the system's. `certificate` and `key`: our own.

    An empty `key`: it stands in the file of the certificate.
    """

    ca_file: str = ""
    certificate: str = ""
    key: str = ""


def is_loopback(host: str) -> bool:
    """Whether what goes to this host stays on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that checks certificate and host name, TLS 1.2 or later; the files are read now.

    Raises:
        ConfigurationError: a file cannot be read, is not what it should be, or gives its key to everybody.
    """
    for path in filter(None, (files.ca_file, files.certificate, files.key)):
        _refuse_what_never_ends(path)
    try:
        context = ssl.create_default_context(cafile=files.ca_file or None)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{files.ca_file!r} holds no certificates of authorities: {_said(error)}; PEM is expected"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.certificate:
        _load_own(context, files)
    elif files.key:
        raise ConfigurationError(f"there is a key, {files.key!r}, and no certificate; name both")
    return context


def _refuse_what_never_ends(path: str) -> None:
    """A pipe would be waited for, and a device read for ever. What is not there is told by whoever opens it."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path!r} is no ordinary file; PEM is expected")


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    holder = files.key or files.certificate
    try:
        mode = os.stat(holder).st_mode
        if mode & stat.S_IRWXO:
            raise ConfigurationError(
                f"the key in {holder!r} gives rights to everybody (mode {stat.S_IMODE(mode):04o}); "
                f"type: chmod 600 {holder}"
            )
        context.load_cert_chain(files.certificate, files.key or None, password=_nobody_to_ask)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"certificate {files.certificate!r} and key {holder!r} do not go together, or are not PEM: {_said(error)}"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"certificate {files.certificate!r} or key {holder!r} cannot be read: {_said(error)}"
        ) from error


def _nobody_to_ask() -> NoReturn:
    raise ConfigurationError("the key is encrypted, and nobody is there to type its password; store it unencrypted")


def _said(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)


# --- what a handshake that failed means ------------------------------------------------------------------------------

_VERIFICATION = {
    9: "its certificate is not valid yet: compare the clocks",
    10: "its certificate has expired: it needs a new one",
    18: "it signed its certificate itself: name that as the authority, with {option}",
    19: "nobody here trusts the authority of its certificate: name the authority's file with {option}",
    20: "nobody here trusts the authority of its certificate: name the authority's file with {option}",
    21: "nobody here trusts the authority of its certificate: name the authority's file with {option}",
    23: "its certificate was revoked: it needs a new one",
    62: "its certificate is for another name: write the name it bears into the address",
    64: "its certificate is for another address: write the name it bears into the address",
}
"""By OpenSSL's X509_V_ERR_… numbers."""

_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a client certificate: name ours with {own}",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the handshake: perhaps it asks for a client certificate ({own})",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired: it needs a new one",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our certificate was revoked: it needs a new one",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it refuses our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "it refuses our certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS 1.2 or later",
    "WRONG_VERSION_NUMBER": "it does not speak TLS at this port",
    "RECORD_LAYER_FAILURE": "it does not speak TLS at this port",
    "PACKET_LENGTH_TOO_LONG": "it does not speak TLS at this port",
}
"""By OpenSSL's reasons: what the other side said, or what it sent instead."""

_OF_CERTIFICATES = frozenset(_ALERTS) & {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
}


def refuses_our_certificate(error: BaseException | None) -> bool:
    """Whether the other side said so, as it does before it takes anything that was sent on this line.

    In TLS 1.3 (RFC 8446, 4.4.2.4) something may have been sent by then: a client is through with its part of the
    handshake before its certificate is looked at.
    """
    return isinstance(error, ssl.SSLError) and error.reason in _OF_CERTIFICATES


_CUT = (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)


def tls_trouble(error: BaseException, *, option: str, own: str) -> str:
    """What a handshake that failed means and what to do; empty where neither the error nor its cause is one of TLS.

    For lines that speak TLS only: an end of the connection while it is being opened is taken for a refusal.
    `option` and `own` name the settings of authorities and of our own certificate.
    """
    if isinstance(error, _CUT) or "unexpectedly closed" in str(error):
        # In TLS 1.3 a client is refused when it believes to be through; what it was told may be lost with the line.
        return f"it ended the connection at the handshake: perhaps it asks for a client certificate, or another ({own})"
    cause = error.__cause__ or error.__context__
    if not isinstance(error, ssl.SSLError) and cause is not None:
        return tls_trouble(cause, option=option, own=own)
    if isinstance(error, ssl.SSLCertVerificationError):
        known = _VERIFICATION.get(error.verify_code, "its certificate is not trusted").format(option=option)
        return f"{known} ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        known = _ALERTS.get(error.reason or "", "TLS failed").format(own=own)
        return f"{known} ({error.reason or error})"
    return ""
