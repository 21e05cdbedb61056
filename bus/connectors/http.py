"""HTTP/1.1 towards one configured target: pooled, bounded in time and size, no redirects, TLS verified."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from bus.connectors.addresses import is_link_local
from bus.connectors.deadline import Deadline
from bus.connectors.http_credentials import Authorization, Credentials, read_credentials
from bus.connectors.http_network import GuardedTransport, Progress, following
from bus.connectors.http_outcome import Reply, failure_of, flaw_of
from bus.connectors.http_record import answer_record, is_secret_header, query_pairs, request_record
from bus.connectors.masking import Masking, masking
from bus.connectors.options import Options, SecretSource
from bus.errors import ConfigurationError, DeliveryFailure, EndpointDown, Exchange, OutcomeUnknown
from bus.model.system import Endpoint
from bus.tls import TlsFiles, client_context

ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer's body that are read; a longer one is unreadable."""
LAST_PORT = 65_535
_EXPECTED = "the address is not http(s)://host[:port]/path"
CONNECT_TIMEOUT = timedelta(seconds=5)
KEEP_ALIVE = timedelta(seconds=1)
"""How long an idle connection is used again.

httpcore drops an idle connection that is readable, that is, one whose end has arrived already. What remains is a
target closing it while our request is under way, which looks like an answer that was lost. Servers close idle
connections after 2 s (gunicorn), 5 s (Node, Apache, uvicorn) or more; staying below the shortest keeps us out of
that race, and a batch still goes over one connection.
"""


TRUSTED_BY_THE_SYSTEM = TlsFiles()
"""The system's authorities, and no certificate of our own."""


class HttpConnector:
    """Calls one target for the adapters of one endpoint; safe to use from many threads."""

    def __init__(
        self,
        address: str,
        *,
        timeout: timedelta,
        credentials: Credentials,
        connections: int,
        connect_timeout: timedelta = CONNECT_TIMEOUT,
        keep_alive: timedelta = KEEP_ALIVE,
        files: TlsFiles = TRUSTED_BY_THE_SYSTEM,
    ) -> None:
        """
        Raises:
            ConfigurationError: the address is no absolute http(s) URL, bears a login or is link-local, or one of the
                files is wrong, or given where the address speaks no TLS.
        """
        self._address = _checked_address(address)
        if self._address.scheme == "http" and files != TRUSTED_BY_THE_SYSTEM:
            raise ConfigurationError("the options ca_file, certificate and key are for TLS; https:// speaks it")
        # A token in the address is a secret too; what an adapter asks for in a query of its own is none.
        self._secret_pairs = query_pairs(self._address)
        self._timeout = timeout
        self._credentials = credentials
        self._connect_timeout = connect_timeout.total_seconds()
        self._client = httpx.Client(
            transport=GuardedTransport(connections=connections, keep_alive=keep_alive, tls=client_context(files)),
            # Compressed answers could grow beyond every limit after they were measured.
            headers={"accept-encoding": "identity", "user-agent": "plantbus"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    @property
    def path(self) -> str:
        """The address's own path with its query, at least `/`."""
        return self._address.raw_path.decode()

    def deadline(self) -> Deadline:
        """The end of an exchange that begins now."""
        return Deadline.after(self._timeout)

    def post(self, path: str, body: bytes, *, headers: Mapping[str, str], deadline: Deadline) -> Reply:
        """Send a body; any status is a Reply. `path` is absolute and may have a query.

        A 401 or 403 is answered once with a freshly resolved secret, if that differs.

        Raises:
            EndpointDown, TransientFailure: nothing was sent.
            PermanentFailure: the request cannot be written as HTTP; nothing was sent.
            OutcomeUnknown: it may have happened.
        """
        return self._call("POST", path, body=body, headers=headers, deadline=deadline)

    def get(self, path: str, *, headers: Mapping[str, str], deadline: Deadline) -> Reply:
        """Ask; any status whose body was read to its end is a Reply. Asking changes nothing at the target.

        Raises:
            EndpointDown, TransientFailure: there was no answer, or not to its end.
        """
        try:
            reply = self._call("GET", path, body=b"", headers=headers, deadline=deadline)
        except OutcomeUnknown as error:
            raise EndpointDown("endpoint.no-answer", f"{path}: {error}", exchange=error.exchange) from error
        if reply.flaw:
            raise EndpointDown("endpoint.no-answer", f"{path}: {reply.flaw_detail}", exchange=reply.exchange)
        return reply

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, *, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> Reply:
        request = self._client.build_request(
            method, self._address.join(path), content=body, headers=[*_encoded(headers)]
        )
        authorization = self._authorization()
        reply = self._exchange(request, authorization, deadline)
        if reply.status in (401, 403):
            fresh = self._renewed(authorization)
            if fresh is not None:
                return self._exchange(request, fresh, deadline)
        return reply

    def _exchange(self, request: httpx.Request, authorization: Authorization, deadline: Deadline) -> Reply:
        if authorization.header:
            request.headers["authorization"] = authorization.header
        secrets = masking((*authorization.spellings, *self._secret_pairs))
        progress = Progress(deadline, self._connect_timeout)
        try:
            return self._attempt(request, secrets, progress)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            if progress.written or progress.connected_anew or isinstance(error, httpcore.LocalProtocolError):
                raise self._translated(error, request, secrets, progress) from error
        except (httpcore.TimeoutException, UnicodeError) as error:
            raise self._translated(error, request, secrets, progress) from error
        # The pooled connection had died while idle and took not one byte of the request.
        progress = Progress(deadline, self._connect_timeout)
        try:
            return self._attempt(request, secrets, progress)
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise self._translated(error, request, secrets, progress) from error

    def _attempt(self, request: httpx.Request, secrets: Masking, progress: Progress) -> Reply:
        with following(progress):
            response = self._client.send(request, stream=True)
            try:
                return _read_reply(response, secrets, progress, sent=self._record(request))
            finally:
                response.close()

    def _record(self, request: httpx.Request) -> bytes:
        return request_record(request, secret_pairs=self._secret_pairs)

    def _translated(
        self, error: Exception, request: httpx.Request, secrets: Masking, progress: Progress
    ) -> DeliveryFailure:
        sent = self._record(request) if progress.written else b""
        # What cannot be read as HTTP is quoted in the error's text.
        return failure_of(error, progress, exchange=Exchange(sent=sent), secrets=secrets)

    def _authorization(self) -> Authorization:
        try:
            return self._credentials.current()
        except ConfigurationError as error:
            raise EndpointDown("endpoint.credentials-missing", str(error)) from error

    def _renewed(self, refused: Authorization) -> Authorization | None:
        try:
            return self._credentials.renewed(refused)
        except ConfigurationError as error:
            raise EndpointDown("endpoint.credentials-missing", str(error)) from error


def http_connector(endpoint: Endpoint, options: Options, *, secret: SecretSource) -> HttpConnector:
    """The connector of an endpoint, from its options `user` and `password` or `token`, `ca_file` (PEM of the only
    authorities to trust), `certificate` and `key` (PEM files of our own), `connect_timeout` and `keep_alive` (seconds).

    Raises:
        ConfigurationError: names the endpoint and what is wrong with it.
    """
    try:
        return HttpConnector(
            endpoint.address,
            timeout=endpoint.timeout,
            credentials=read_credentials(options, secret=secret),
            connections=endpoint.concurrency,
            connect_timeout=options.seconds("connect_timeout", CONNECT_TIMEOUT),
            keep_alive=options.seconds("keep_alive", KEEP_ALIVE),
            files=TlsFiles(
                ca_file=options.text("ca_file"), certificate=options.text("certificate"), key=options.text("key")
            ),
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"endpoint {endpoint.name!r}: {error}") from error


def _read_reply(response: httpx.Response, secrets: Masking, progress: Progress, *, sent: bytes) -> Reply:
    """Read the body as far as it comes: what the status says holds even where the rest is lost.

    The login is masked before anybody sees the answer: a target's words go into details, documents and logs.
    """
    body, flaw, flaw_detail = bytearray(), "", ""
    try:
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > ANSWER_LIMIT:
                flaw, flaw_detail = "outcome.unreadable-answer", f"the answer is longer than {ANSWER_LIMIT} bytes"
                break
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        flaw, flaw_detail = flaw_of(error, progress), secrets.text(str(error))
    if not flaw and response.headers.get("content-encoding", "identity") != "identity":
        flaw, flaw_detail = "outcome.unreadable-answer", "the answer is compressed although we asked for none of it"
    read = secrets.octets(bytes(body))[:ANSWER_LIMIT]
    # As it came: httpx leaves out what is not ASCII, and what is left of a login would not be known any more.
    reason = secrets.octets(response.extensions.get("reason_phrase", b"")).decode("latin-1")
    headers = _masked_headers(response.headers, secrets)
    return Reply(
        status=response.status_code,
        reason=reason,
        headers=headers,
        body=read,
        exchange=Exchange(sent=sent, received=answer_record(response.status_code, reason, headers, read)),
        flaw=flaw,
        flaw_detail=flaw_detail,
    )


def _masked_headers(headers: httpx.Headers, secrets: Masking) -> httpx.Headers:
    # A session's cookie or token stays as it is: the adapter must send it back, and no record shows it.
    return httpx.Headers(
        [(name, value if is_secret_header(name) else secrets.octets(value)) for name, value in headers.raw]
    )


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    # UTF-8 where a value is not ASCII; h11 refuses control characters before anything is sent.
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def _checked_address(address: str) -> httpx.URL:
    """None of these texts quotes it: it may come from a secret, or bear one."""
    try:
        url = httpx.URL(address)
        host = url.host  # reading it may fail, too
    except (httpx.InvalidURL, UnicodeError):
        raise ConfigurationError(f"{_EXPECTED}; found one that cannot be read") from None
    if url.scheme not in ("http", "https") or not host or url.fragment or not 0 <= (url.port or 0) <= LAST_PORT:
        raise ConfigurationError(f"{_EXPECTED}; found another one of {len(address)} letters")
    if url.userinfo:
        raise ConfigurationError(f"the address at {host} bears a login; use the options user and password")
    if is_link_local(host):
        raise ConfigurationError(f"{host} is link-local; the bus does not call such targets")
    return url
