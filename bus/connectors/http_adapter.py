"""The adapter `http`: posts a message's body to its endpoint's address; everything else is configuration."""

from __future__ import annotations

from typing import Any

from bus.connectors.http import http_connector
from bus.connectors.http_outcome import Reply, refuse, refuse_question, unreadable
from bus.connectors.options import Options, SecretSource
from bus.errors import ConfigurationError, EndpointDown, TransientFailure
from bus.model.path import value_at
from bus.model.system import Endpoint
from bus.ports import Answer, Parcel


class HttpAdapter:
    """POST with the message's content type and the delivery's key in `Idempotency-Key`. Options, all optional:

    `user` + `password`, or `token`: basic or bearer; both secrets are references.
    `remembers_keys`: true where the target absorbs a repeat under the same key (default false).
    `document`: dotted path of the target's document number in its JSON answer; `document_header`: or the header.
    `error_code`, `error_text`: dotted paths of the target's own words in its JSON refusals.
    `transient`: further 4xx statuses worth a retry. `check`: path to GET for a check, `/health`, say.
    `ca_file`, `certificate`, `key`, `connect_timeout`, `keep_alive`: see http_connector.
    """

    def __init__(self, endpoint: Endpoint, *, secret: SecretSource) -> None:
        options = Options(endpoint)
        self._connector = http_connector(endpoint, options, secret=secret)
        self.remembers_keys = options.flag("remembers_keys")
        self._document = options.text("document")
        self._document_header = options.text("document_header")
        self._error_code = options.text("error_code")
        self._error_text = options.text("error_text")
        self._transient = options.statuses("transient")
        self._check_path = options.text("check")
        options.finish()
        if self._document and self._document_header:
            raise ConfigurationError(
                f"endpoint {endpoint.name!r}: found options document and document_header; keep one of them"
            )

    def send(self, parcel: Parcel) -> Answer:
        message = parcel.message
        reply = self._connector.post(
            self._connector.path,
            message.body,
            headers={"content-type": message.content_type, "idempotency-key": parcel.key, "accept": "*/*"},
            deadline=self._connector.deadline(),
        )
        if not reply.is_success:
            document = reply.json
            refuse(
                reply,
                transient=self._transient,
                code=_word_at(document, self._error_code),
                text=_word_at(document, self._error_text),
            )
        return Answer(document=self._document_of(reply), exchange=reply.exchange)

    def close(self) -> None:
        self._connector.close()

    def _document_of(self, reply: Reply) -> str:
        if reply.flaw:
            raise unreadable(reply, reply.flaw_detail)
        if self._document_header:
            number: str = reply.headers.get(self._document_header, "")
        elif self._document:
            number = _word_at(reply.json, self._document)
        else:
            return ""
        if not number:
            raise unreadable(reply, f"no document number at {self._document_header or self._document}")
        return number


class CheckedHttpAdapter(HttpAdapter):
    """An HttpAdapter whose target has something to ask without booking: option `check`."""

    def check(self) -> None:
        """GET the path of option `check`, with our credentials.

        Raises:
            EndpointDown: it does not answer 2xx, or refuses our credentials.
        """
        try:
            reply = self._connector.get(
                self._check_path, headers={"accept": "*/*"}, deadline=self._connector.deadline()
            )
            if not reply.is_success:
                refuse_question(reply)
        except TransientFailure as error:
            raise EndpointDown(error.cause, error.detail, exchange=error.exchange) from error


def http_adapter(endpoint: Endpoint, *, secret: SecretSource) -> HttpAdapter:
    """The adapter `http`; without option `check` it does not claim to be able to check."""
    return (CheckedHttpAdapter if endpoint.options.get("check") else HttpAdapter)(endpoint, secret=secret)


def _word_at(document: Any, path: str) -> str:
    """The text or number at a dotted path; empty where there is none."""
    value = value_at(document, path) if path else ""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
