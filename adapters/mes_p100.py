"""MES P100: takes B2MML schedules over HTTP, remembers idempotency keys, acknowledges with the id of its job."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from bus import Answer, Endpoint, EndpointDown, MessageInvalid, Parcel, PermanentFailure, TransientFailure, read_xml
from bus.connectors.http import http_connector
from bus.connectors.http_outcome import Reply, refuse, refuse_question, unreadable
from bus.connectors.options import Options, SecretSource

HEALTH = "/health"


class MesP100:
    """Options: `token` (a secret reference, bearer).

    `ca_file`, `certificate`, `key`, `connect_timeout`, `keep_alive` as for http.

    The endpoint's address is the URL that takes the schedules.
    """

    remembers_keys = True

    def __init__(self, endpoint: Endpoint, *, secret: SecretSource) -> None:
        options = Options(endpoint)
        self._connector = http_connector(endpoint, options, secret=secret)
        options.finish()

    def send(self, parcel: Parcel) -> Answer:
        message = parcel.message
        reply = self._connector.post(
            self._connector.path,
            message.body,
            headers={
                "content-type": message.content_type,
                "accept": "application/xml",
                "idempotency-key": parcel.key,
            },
            deadline=self._connector.deadline(),
        )
        if not reply.is_success:
            refuse(reply)
        return Answer(document=_job_of(reply), exchange=reply.exchange)

    def check(self) -> None:
        """Ask for its health; its login is not part of that."""
        try:
            reply = self._connector.get(HEALTH, headers={"accept": "*/*"}, deadline=self._connector.deadline())
            if not reply.is_success:
                refuse_question(reply)
        except TransientFailure as error:
            raise EndpointDown(error.cause, error.detail, exchange=error.exchange) from error

    def close(self) -> None:
        self._connector.close()


def _job_of(reply: Reply) -> str:
    """The schedule's ID of an AcknowledgeOperationsSchedule (B2MML V0701).

    Raises:
        PermanentFailure: acknowledged as Rejected, with the reason given.
        OutcomeUnknown: it is no such document, or names no job.
    """
    try:
        root = read_xml(reply.body)
    except MessageInvalid as error:
        raise unreadable(reply, str(error)) from error
    expression = root.find(".//{*}ResponseExpression")
    if expression is not None and expression.get("actionCode") == "Rejected":
        raise PermanentFailure("target.refused", _text(expression) or "Rejected", exchange=reply.exchange)
    schedule = root.find("{*}DataArea/{*}OperationsSchedule/{*}ID")
    if reply.flaw or schedule is None or not _text(schedule):
        raise unreadable(reply, "no OperationsSchedule/ID in the acknowledgement")
    return _text(schedule)


def _text(element: Element) -> str:
    return (element.text or "").strip()
