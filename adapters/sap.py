"""SAP S/4HANA over OData V2: posts confirmations and goods movements, and finds them again by our external id.

Services: API_PROD_ORDER_CONFIRMATION_2_SRV and API_MATERIAL_DOCUMENT_SRV (SAP Business Accelerator Hub).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID

from adapters.sap_session import Session, Sessions
from bus import (
    Answer,
    Endpoint,
    EndpointDown,
    Finding,
    Message,
    MessageInvalid,
    Parcel,
    PermanentFailure,
    TransientFailure,
    Verdict,
    read_json,
)
from bus.connectors.deadline import Deadline
from bus.connectors.http import http_connector
from bus.connectors.http_outcome import Reply, refuse, refuse_question, unreadable
from bus.connectors.options import Options, SecretSource


@dataclass(frozen=True)
class Posting:
    """Where a message type is posted, which field bears our id, and which fields name the document made."""

    service: str
    entity: str
    external_id: str
    document: tuple[str, str]
    is_guid: bool = False


ROOT = "/sap/opu/odata/sap"
POSTINGS: Mapping[str, Posting] = {
    "sap.production-order-confirmation.v2": Posting(
        service="API_PROD_ORDER_CONFIRMATION_2_SRV",
        entity="ProdnOrdConf2",
        external_id="ExternalSystemConfirmation",
        document=("ConfirmationGroup", "ConfirmationCount"),
        is_guid=True,
    ),
    "sap.material-document.v1": Posting(
        service="API_MATERIAL_DOCUMENT_SRV",
        entity="A_MaterialDocumentHeader",
        external_id="ReferenceDocument",
        document=("MaterialDocument", "MaterialDocumentYear"),
    ),
}


class SapOData:
    """Options: `user` and `password` (a secret reference), all others optional:

    `client`: the SAP client, sent as sap-client. `transient`: further 4xx statuses worth a retry.
    `ca_file`, `certificate`, `key`, `connect_timeout`, `keep_alive`: see bus.connectors.http.
    A path in the endpoint's address, a gateway's, stands before the services' own.
    """

    remembers_keys = False

    def __init__(self, endpoint: Endpoint, *, secret: SecretSource) -> None:
        options = Options(endpoint)
        self._connector = http_connector(endpoint, options, secret=secret)
        self._client = options.text("client")
        self._transient = options.statuses("transient")
        options.finish()
        self._root = self._connector.path.rstrip("/") + ROOT
        self._sessions = {posting.service: Sessions() for posting in POSTINGS.values()}

    def send(self, parcel: Parcel) -> Answer:
        posting = _posting_for(parcel.message)
        # Without our id in it nobody could find out later whether it was booked.
        _external_id(parcel.message, posting)
        deadline = self._connector.deadline()
        session = self._session(posting, deadline, instead_of=None)
        reply = self._post(posting, parcel.message, session, deadline)
        if _wants_token(reply):
            session = self._session(posting, deadline, instead_of=session)
            reply = self._post(posting, parcel.message, session, deadline)
        if _wants_token(reply):
            raise EndpointDown("endpoint.csrf-refused", reply.text, exchange=reply.exchange)
        if not reply.is_success:
            code, text = _words(reply)
            refuse(reply, transient=self._transient, code=code, text=text)
        return Answer(document=_document_made(reply, posting), exchange=reply.exchange)

    def probe(self, parcel: Parcel) -> Finding:
        posting = _posting_for(parcel.message)
        wanted = _external_id(parcel.message, posting)
        literal = f"guid'{wanted}'" if posting.is_guid else "'" + wanted.replace("'", "''") + "'"
        query = f"$filter={quote(f'{posting.external_id} eq {literal}')}&$format=json"
        reply = self._connector.get(
            self._path(posting, f"/{posting.entity}", query),
            headers={"accept": "application/json"},
            deadline=self._connector.deadline(),
        )
        if not reply.is_success:
            code, text = _words(reply)
            refuse_question(reply, code=code, text=text)
        found = _entities_found(reply, posting, wanted)
        if not found:
            return Finding(verdict=Verdict.ABSENT, exchange=reply.exchange)
        return Finding(verdict=Verdict.FOUND, document=_number(found[0], posting), exchange=reply.exchange)

    def check(self) -> None:
        """Fetch a token from every service: up, and our credentials are taken."""
        for posting in POSTINGS.values():
            try:
                self._fetch_session(posting, self._connector.deadline())
            except TransientFailure as error:
                raise EndpointDown(error.cause, error.detail, exchange=error.exchange) from error

    def close(self) -> None:
        self._connector.close()

    def _post(self, posting: Posting, message: Message, session: Session, deadline: Deadline) -> Reply:
        return self._connector.post(
            self._path(posting, f"/{posting.entity}"),
            message.body,
            headers={
                "content-type": message.content_type,
                "accept": "application/json",
                **session.headers,
            },
            deadline=deadline,
        )

    def _session(self, posting: Posting, deadline: Deadline, *, instead_of: Session | None) -> Session:
        # Half of the time at most: the posting that follows must not end in doubt because its token came late.
        sessions = self._sessions[posting.service]
        return sessions.get(lambda: self._fetch_session(posting, deadline.halved()), deadline, instead_of=instead_of)

    def _fetch_session(self, posting: Posting, deadline: Deadline) -> Session:
        reply = self._connector.get(
            self._path(posting, "/"),
            headers={"accept": "application/json", "x-csrf-token": "Fetch"},
            deadline=deadline,
        )
        if not reply.is_success:
            code, text = _words(reply)
            refuse_question(reply, code=code, text=text)
        token = reply.headers.get("x-csrf-token", "")
        if not token:
            raise EndpointDown(
                "endpoint.check-refused", "there is no x-csrf-token in the answer", exchange=reply.exchange
            )
        cookies = (line.partition(";")[0].strip() for line in reply.headers.get_list("set-cookie"))
        return Session(token, "; ".join(cookies))

    def _path(self, posting: Posting, resource: str, query: str = "") -> str:
        client = f"sap-client={quote(self._client)}" if self._client else ""
        queries = "&".join(filter(None, (query, client)))
        return f"{self._root}/{posting.service}{resource}" + (f"?{queries}" if queries else "")


def _posting_for(message: Message) -> Posting:
    posting = POSTINGS.get(message.type)
    if posting is None:
        raise PermanentFailure("request.invalid", f"type {message.type}: SAP is given {', '.join(sorted(POSTINGS))}")
    return posting


def _external_id(message: Message, posting: Posting) -> str:
    """Our id in the body, in the spelling SAP compares.

    Raises:
        PermanentFailure: it is missing, or no GUID where it must be one.
    """
    try:
        document = read_json(message.body)
    except MessageInvalid as error:
        raise PermanentFailure("request.invalid", str(error)) from error
    value = document.get(posting.external_id) if isinstance(document, dict) else None
    wanted = _normalised(value, posting)
    if not wanted:
        raise PermanentFailure("request.invalid", f"{posting.external_id} is {value!r}; it must bear our id")
    return wanted


def _normalised(value: object, posting: Posting) -> str:
    """Empty where there is no id; SAP's initial GUID is none."""
    if not isinstance(value, str) or not posting.is_guid:
        return value.strip() if isinstance(value, str) else ""
    try:
        guid = UUID(value)
    except ValueError:
        return ""
    return str(guid) if guid.int else ""


def _wants_token(reply: Reply) -> bool:
    return reply.status == 403 and reply.headers.get("x-csrf-token", "").lower() == "required"


def _words(reply: Reply) -> tuple[str, str]:
    """Code and text of an OData error; `message` is an object in V2 and a text in V4."""
    document = reply.json
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message", "")
    text = message.get("value", "") if isinstance(message, dict) else message
    return str(error.get("code", "")), str(text)


def _document_made(reply: Reply, posting: Posting) -> str:
    document = reply.json
    entity = document.get("d") if isinstance(document, dict) else None
    number = _number(entity, posting)
    if not number:
        raise unreadable(reply, f"the answer names no {' and '.join(posting.document)}")
    return number


def _entities_found(reply: Reply, posting: Posting, wanted: str) -> list[dict[str, Any]]:
    """What the search found.

    Raises:
        TransientFailure: it cannot be read, or bears another id: a target that ignores $filter proves nothing.
    """
    document = reply.json
    content = document.get("d") if isinstance(document, dict) else None
    entities = content.get("results") if isinstance(content, dict) else None
    if not isinstance(entities, list) or not all(_number(each, posting) for each in entities):
        raise TransientFailure("probe.unreadable-answer", reply.text, exchange=reply.exchange)
    strangers = [each for each in entities if _normalised(each.get(posting.external_id), posting) != wanted]
    if strangers:
        raise TransientFailure(
            "probe.unreadable-answer",
            f"asked for {wanted}, found {_number(strangers[0], posting)}",
            exchange=reply.exchange,
        )
    return entities


def _number(entity: object, posting: Posting) -> str:
    """`100/1` for a confirmation, `4900000121/2016` for a material document; empty where a part is missing."""
    parts = [entity.get(name) for name in posting.document] if isinstance(entity, dict) else []
    return "/".join(str(part) for part in parts) if parts and all(parts) else ""
