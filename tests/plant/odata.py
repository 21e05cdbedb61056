"""The manner of an SAP OData V2 gateway: errors, $filter, CSRF tokens bound to a session cookie."""

import json
import re
import secrets
import threading
from collections.abc import Mapping
from datetime import datetime
from http.cookies import CookieError, SimpleCookie

from tests.plant.listener import Answer, Request, json_answer

SESSION_COOKIE = "SAP_SESSIONID_PLT_100"

_CONDITION = re.compile(r"\s*(?P<name>\w+)\s+eq\s+(?P<guid>guid)?'(?P<value>(?:[^']|'')*)'\s*")


class Refusal(Exception):
    """The gateway answers with an error and books nothing."""

    def __init__(self, status: int, code: str, text: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text
        self.headers = dict(headers or {})

    def as_answer(self) -> Answer:
        error = {"code": self.code, "message": {"lang": "en", "value": self.text}, "innererror": {}}
        return json_answer({"error": error}, self.status, self.headers)


def parse_filter(expression: str) -> dict[str, str]:
    """`A eq 'x' and B eq guid'…'` as names and values.

    Raises:
        Refusal: 400, anything else stands there.
    """
    wanted: dict[str, str] = {}
    position = 0
    while True:
        condition = _CONDITION.match(expression, position)
        if condition is None:
            raise Refusal(400, "/IWBEP/CM_MGW_RT/022", f"Invalid system query option $filter near {position}")
        wanted[condition["name"]] = condition["value"].replace("''", "'")
        position = condition.end()
        if position == len(expression):
            return wanted
        if not expression.startswith("and ", position):
            raise Refusal(400, "/IWBEP/CM_MGW_RT/022", f"Invalid system query option $filter near {position}")
        position += len("and ")


def edm_datetime(moment: datetime) -> str:
    return f"/Date({int(moment.timestamp() * 1000)})/"


def edm_time(moment: datetime) -> str:
    return f"PT{moment.hour:02d}H{moment.minute:02d}M{moment.second:02d}S"


def metadata_answer(service: str) -> Answer:
    document = (
        '<?xml version="1.0" encoding="utf-8"?>'
        '<edmx:Edmx Version="1.0" xmlns:edmx="http://schemas.microsoft.com/ado/2007/06/edmx">'
        '<edmx:DataServices m:DataServiceVersion="2.0" '
        'xmlns:m="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata">'
        f'<Schema Namespace="{service}" xmlns="http://schemas.microsoft.com/ado/2008/09/edm"/>'
        "</edmx:DataServices></edmx:Edmx>"
    )
    return Answer(200, document.encode(), "application/xml")


def csrf_refusal() -> Answer:
    """What the gateway says to a changing request without a valid token: text, not an OData error."""
    return Answer(403, b"CSRF token validation failed", "text/plain", {"x-csrf-token": "Required"})


class Sessions:
    """Tokens and the session cookies they belong to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, str] = {}

    def headers_for(self, request: Request) -> dict[str, str]:
        """What a GET that says `x-csrf-token: Fetch` gets; a known session keeps its token."""
        if request.headers.get("x-csrf-token", "").lower() != "fetch":
            return {}
        with self._lock:
            session = _session_of(request)
            if session in self._tokens:
                return {"x-csrf-token": self._tokens[session]}
            session, token = secrets.token_urlsafe(24), secrets.token_urlsafe(16) + "=="
            self._tokens[session] = token
        cookie = f"{SESSION_COOKIE}={session}; path=/; HttpOnly"
        return {"x-csrf-token": token, "Set-Cookie": cookie}

    def permit(self, request: Request) -> bool:
        token = request.headers.get("x-csrf-token", "")
        with self._lock:
            expected = self._tokens.get(_session_of(request))
        return expected is not None and secrets.compare_digest(expected, token)

    def expire(self) -> None:
        with self._lock:
            self._tokens.clear()


def _session_of(request: Request) -> str:
    try:
        morsel = SimpleCookie(request.headers.get("cookie", "")).get(SESSION_COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


def parse_json_body(request: Request) -> dict[str, object]:
    """The entity of a POST.

    Raises:
        Refusal: 415 for another content type, 400 for what is not a JSON object.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "/IWFND/CM_MGW/415", f"Unsupported media type '{content_type}'")
    try:
        entity = json.loads(request.body)
    except ValueError as error:
        raise Refusal(400, "/IWBEP/CM_MGW_RT/021", f"Malformed JSON payload: {error}") from error
    if not isinstance(entity, dict):
        raise Refusal(400, "/IWBEP/CM_MGW_RT/021", "The payload is not an entity")
    return entity
