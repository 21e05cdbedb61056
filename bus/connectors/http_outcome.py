"""HTTP into the four outcomes of a delivery: the one place where exceptions and statuses are translated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import httpcore
import httpx

from bus.connectors.addresses import cause_of_no_connection
from bus.connectors.http_network import Progress
from bus.connectors.masking import Masking
from bus.errors import (
    DeliveryFailure,
    EndpointDown,
    Exchange,
    MessageInvalid,
    OutcomeUnknown,
    PermanentFailure,
    TransientFailure,
)
from bus.model.document import read_json
from bus.tls import refuses_our_certificate, tls_trouble

BUSY = frozenset({408, 423, 429, 503})
LONGEST_RETRY_AFTER = timedelta(days=1)
LONGEST_TEXT = 500
"""Characters of an answer's body that stand in the detail when the target names no code and text of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A target's answer, at least its status line and headers.

    `flaw` says why the body could not be read to its end: an `outcome.*` cause, empty where it was.
    """

    status: int
    reason: str
    headers: httpx.Headers
    body: bytes
    exchange: Exchange
    flaw: str = ""
    flaw_detail: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299

    @property
    def json(self) -> Any:
        """The body as strict JSON; None where it is none, or was not read to its end."""
        if self.flaw:
            return None
        try:
            return read_json(self.body)
        except MessageInvalid:
            return None

    @property
    def text(self) -> str:
        """The body for a person: decoded, on one line, cut to LONGEST_TEXT characters."""
        return " ".join(self.body[: 4 * LONGEST_TEXT].decode("utf-8", "replace").split())[:LONGEST_TEXT]


def failure_of(error: Exception, progress: Progress, *, exchange: Exchange, secrets: Masking) -> DeliveryFailure:
    """What an exchange that ended without a status line means.

    Once the operating system took one byte of the request it may have happened, whatever the exception is called:
    "Server disconnected without sending a response" is also what a target that booked and then died looks like.
    """
    detail = secrets.text(_text_of(error))
    if isinstance(error, httpcore.LocalProtocolError | UnicodeError):
        return PermanentFailure("request.invalid", detail)
    if progress.written and not _is_refused_in_tls(progress):
        return OutcomeUnknown(flaw_of(error, progress), detail, exchange=exchange)
    if isinstance(error, httpcore.PoolTimeout):
        return TransientFailure("endpoint.no-free-connection", "all connections stayed in use until the time-out")
    if progress.in_tls and progress.obstacle is not None:
        trouble = tls_trouble(progress.obstacle, option="ca_file", own="certificate and key")
        detail = secrets.text(trouble) or detail
    return EndpointDown(_cause_unsent(error, progress), detail)


def _is_refused_in_tls(progress: Progress) -> bool:
    """Whether nobody read what was written: the handshake, which had ended for us, was refused by the target."""
    return progress.in_tls and refuses_our_certificate(progress.obstacle)


def flaw_of(error: Exception, progress: Progress) -> str:
    """The cause for an exchange that broke after the request was, at least in part, written."""
    if isinstance(error, httpcore.TimeoutException):
        return "outcome.timeout"
    if progress.is_cut or isinstance(error, httpcore.NetworkError):
        return "outcome.connection-cut"
    return "outcome.unreadable-answer"


def refuse(reply: Reply, *, transient: Collection[int] = (), code: str = "", text: str = "") -> NoReturn:
    """Raise what an answer outside 2xx means; `transient`: statuses worth a retry besides BUSY.

    `code` and `text` are the target's own words, where the adapter found them in the answer.
    """
    detail = " ".join(filter(None, (str(reply.status), code, text or reply.text or reply.reason)))
    exchange = reply.exchange
    if reply.status in (401, 403):
        raise EndpointDown("endpoint.credentials-refused", detail, exchange=exchange)
    if 300 <= reply.status <= 399:
        target = reply.headers.get("location", "")
        raise EndpointDown("endpoint.redirects", f"{reply.status} to {target!r}", exchange=exchange)
    if reply.status in BUSY or reply.status in transient:
        cause = "target.busy" if reply.status in BUSY else f"target.{reply.status}"
        raise TransientFailure(
            cause, detail, exchange=exchange, retry_after=retry_after(reply.headers, now=datetime.now(UTC))
        )
    if 400 <= reply.status <= 499:
        raise PermanentFailure("target.refused", detail, exchange=exchange)
    cause = "outcome.server-error" if reply.status >= 500 else "outcome.unreadable-answer"
    raise OutcomeUnknown(cause, detail, exchange=exchange)


def refuse_question(reply: Reply, *, code: str = "", text: str = "") -> NoReturn:
    """Like refuse(), for an answer to a question: nothing was booked by asking, so nothing is in doubt.

    Raises:
        TransientFailure: the target is busy.
        EndpointDown: anything else.
    """
    try:
        refuse(reply, code=code, text=text)
    except (PermanentFailure, OutcomeUnknown) as error:
        raise EndpointDown("endpoint.check-refused", error.detail, exchange=error.exchange) from error


def unreadable(reply: Reply, why: str) -> OutcomeUnknown:
    """A 2xx whose body does not say what it must: it may have happened, and nobody can name the document."""
    if reply.flaw:
        return OutcomeUnknown(reply.flaw, f"{reply.status}: {reply.flaw_detail}", exchange=reply.exchange)
    return OutcomeUnknown("outcome.unreadable-answer", f"{reply.status}: {why}", exchange=reply.exchange)


def retry_after(headers: httpx.Headers, *, now: datetime) -> timedelta | None:
    """The header Retry-After (RFC 9110, 10.2.3): seconds, or a date, measured from the answer's own Date if it has one.

    None where it is missing or cannot be read; never negative, never more than LONGEST_RETRY_AFTER.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        # The length first: int() of a thousand digits takes its time, and timedelta overflows.
        span = timedelta(seconds=int(value)) if len(value) < 9 else LONGEST_RETRY_AFTER
    else:
        until = _date(value)
        if until is None:
            return None
        span = until - (_date(headers.get("date", "")) or now)
    return min(max(span, timedelta(0)), LONGEST_RETRY_AFTER)


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _cause_unsent(error: Exception, progress: Progress) -> str:
    if isinstance(error, httpcore.ConnectTimeout):
        return "endpoint.connect-timeout"
    if progress.in_tls:
        return "endpoint.tls"
    return cause_of_no_connection(progress.obstacle)


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__
