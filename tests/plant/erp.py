"""The ERP: takes confirmations and goods movements as SAP S/4HANA OData V2, publishes production orders."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.plant.book import Call, Publication, order_key
from tests.plant.erp_book import ErpBook, KnownOrder
from tests.plant.faults import Fault
from tests.plant.listener import Answer, Cut, Request, json_answer
from tests.plant.odata import Refusal, Sessions, csrf_refusal, metadata_answer, parse_filter, parse_json_body
from tests.plant.orders import make_order, message_id, operation_ids
from tests.plant.postings import CONFIRMATION, MATERIAL_DOCUMENT, Posting, read_posting
from tests.plant.process import Command, Parts, required_environment, run
from tests.plant.wire import compose

ROOT = "/sap/opu/odata/sap"
SERVICES = {
    "API_PROD_ORDER_CONFIRMATION_2_SRV": (CONFIRMATION, "ExternalSystemConfirmation"),
    "API_MATERIAL_DOCUMENT_SRV": (MATERIAL_DOCUMENT, "ReferenceDocument"),
}
ORDER_TYPE = "sap.production-order.v2"


class Erp:
    """Answers like the real gateway, in its order: login, resource, token, content, order."""

    def __init__(self, book: ErpBook, parts: Parts, *, user: str, password: str) -> None:
        self._book = book
        self._parts = parts
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._sessions = Sessions()

    def start(self) -> None:
        """Nothing to start: the ERP acts when asked."""

    def stop(self) -> None:
        """Nothing to stop."""

    def answer(self, request: Request) -> Answer:
        call = Call(request.method, request.path)
        status = 0
        try:
            answer = self._answer(request, call)
            status = answer.status
        except Refusal as refusal:
            call.note = call.note or f"{refusal.code} {refusal.text}"
            answer = refusal.as_answer()
            status = answer.status
        except Cut:
            call.note += "connection cut"
            raise
        finally:
            self._book.note_call(call, status)
        return answer

    def commands(self) -> Mapping[str, Command]:
        return {
            "expire-tokens": self._expire_tokens,
            "lock": lambda command: self._lock(command["order"], locked=True),
            "unlock": lambda command: self._lock(command["order"], locked=False),
            "know-orders": self._know_orders,
            "publish-orders": self._publish_orders,
            "publish-change": self._publish_change,
        }

    def open_book(self) -> Mapping[str, object]:
        requests = self._book.requests()
        return {
            "published": self._book.published(),
            "documents": self._book.documents(),
            "requests": requests,
            "refused": [each for each in requests if each["status"] >= 400],
        }

    def _answer(self, request: Request, call: Call) -> Answer:
        if self._parts.password_rotated or not self._knows_caller(request):
            raise Refusal(
                401, "/IWFND/CM_LOGON/401", "Logon failed", headers={"WWW-Authenticate": 'Basic realm="SAP NetWeaver"'}
            )
        service, _, resource = request.path.removeprefix(ROOT + "/").partition("/")
        if not request.path.startswith(ROOT + "/") or service not in SERVICES:
            raise Refusal(404, "/IWFND/MED/170", f"No service found for '{request.path}'")
        entity, searchable = SERVICES[service]
        if request.method == "GET":
            return self._get(request, call, resource, entity=entity, searchable=searchable, service=service)
        if request.method == "POST" and resource == entity:
            return self._post(request, call, entity)
        raise Refusal(404, "/IWBEP/CM_MGW_RT/020", f"Resource not found for the segment '{resource}'")

    def _knows_caller(self, request: Request) -> bool:
        return secrets.compare_digest(request.headers.get("authorization", "").encode(), self._authorization.encode())

    def _get(
        self, request: Request, call: Call, resource: str, *, entity: str, searchable: str, service: str
    ) -> Answer:
        call.entity = entity if resource else ""
        fault = self._wait_and_fail(call)
        if fault is not None:
            raise _as_refusal(fault)
        if resource == "":
            answer = json_answer({"d": {"EntitySets": [entity]}})
        elif resource == "$metadata":
            answer = metadata_answer(service)
        elif resource == entity:
            answer = self._search(request, call, entity, searchable)
        else:
            raise Refusal(404, "/IWBEP/CM_MGW_RT/020", f"Resource not found for the segment '{resource}'")
        return Answer(answer.status, answer.body, answer.content_type, self._sessions.headers_for(request))

    def _search(self, request: Request, call: Call, entity: str, searchable: str) -> Answer:
        wanted = parse_filter(request.query.get("$filter", ""))
        unknown = set(wanted) - {searchable}
        if unknown or searchable not in wanted:
            raise Refusal(400, "/IWBEP/CM_MGW_RT/023", f"$filter must name {searchable}; found {sorted(wanted)}")
        call.external_id = wanted[searchable]
        return json_answer({"d": {"results": self._book.find_documents(entity, wanted[searchable])}})

    def _post(self, request: Request, call: Call, entity: str) -> Answer:
        if not self._sessions.permit(request):
            call.note = "no valid token"
            return csrf_refusal()
        posting = read_posting(entity, parse_json_body(request))
        call.entity, call.external_id = entity, posting.external_id
        call.order_number = posting.orders[0] if posting.orders else ""
        return self._book_unless_troubled(posting, call)

    def _book_unless_troubled(self, posting: Posting, call: Call) -> Answer:
        met = self._parts.faults.meet(method=call.method, entity=call.entity, order=call.order_number)
        self._parts.stopping.wait(met.seconds)
        fault = met.before_booking()
        if fault is not None:
            raise _as_refusal(fault)
        entity = self._book.book_posting(posting)
        call.note = "booked; "
        outcome = met.after_booking(json_answer({"d": entity}, 201))
        if isinstance(outcome, Fault):
            raise _as_refusal(outcome)
        return outcome

    def _wait_and_fail(self, call: Call) -> Fault | None:
        met = self._parts.faults.meet(method=call.method, entity=call.entity, order="")
        self._parts.stopping.wait(met.seconds)
        return met.before_booking()

    def _expire_tokens(self, _: Mapping[str, Any]) -> object:
        self._sessions.expire()
        return {}

    def _lock(self, order: str, *, locked: bool) -> object:
        self._book.lock_order(order, locked=locked)
        return {"order": order_key(order), "locked": locked}

    def _know_orders(self, command: Mapping[str, Any]) -> object:
        """Orders that came into being without this process publishing them."""
        for number in command["orders"]:
            site, unit = command.get("site", "P100"), command.get("unit", "PC")
            self._book.know_order(KnownOrder(str(number), site, unit, command.get("operations", [])))
        return {"orders": [order_key(str(number)) for number in command["orders"]]}

    def _publish_orders(self, command: Mapping[str, Any]) -> object:
        sites: Sequence[str] = command.get("sites", ["P100", "P200"])
        first = int(command.get("start") or self._book.next_order_number())
        created = datetime.fromisoformat(command["created"]) if "created" in command else datetime.now(UTC)
        publications = []
        with self._book.transaction():
            for index in range(int(command.get("count", 1))):
                site = sites[index % len(sites)]
                seed = int(command.get("seed", 0))
                order = make_order(first + index, site=site, seed=seed, created=created)
                publications.append(self._release(order, seed=seed, revision=0, created=created))
            self._book.write_publications(*publications)
        self._parts.publisher.wake()
        return {"orders": [each.order_number for each in publications]}

    def _publish_change(self, command: Mapping[str, Any]) -> object:
        """The next revision of an order, under the same subject: more pieces, a later LastChangeDateTime."""
        known = self._book.known_order(command["order"])
        if known is None or not known.created:
            raise ValueError(f"order {command['order']} was not published by publish-orders")
        created = datetime.fromisoformat(known.created)
        revision = known.revision + 1
        order = make_order(int(known.number), site=known.site, seed=known.seed, revision=revision, created=created)
        with self._book.transaction():
            publication = self._release(order, seed=known.seed, revision=revision, created=created)
            self._book.write_publications(publication)
        self._parts.publisher.wake()
        return {"order": known.number, "message_id": publication.properties["message_id"]}

    def _release(self, order: Mapping[str, Any], *, seed: int, revision: int, created: datetime) -> Publication:
        number, site = order_key(order["ManufacturingOrder"]), order["ProductionPlant"]
        self._book.know_order(
            KnownOrder(
                number, site, order["ProductionUnit"], operation_ids(dict(order)), seed, created.isoformat(), revision
            )
        )
        return compose(
            json.dumps(order).encode(),
            type=ORDER_TYPE,
            system=self._parts.name,
            site=site,
            message_id=message_id(dict(order)),
            subject=f"order:{number}",
            time=datetime.now(UTC),
            order_number=number,
        )


def _as_refusal(fault: Fault) -> Refusal:
    text = {429: "Too many requests", 503: "Service unavailable", 500: "An exception was raised"}
    code = f"/IWFND/CM_BEC/{fault.status}"
    return Refusal(fault.status, code, text.get(fault.status, "The request failed"), headers=fault.headers)


if __name__ == "__main__":
    run(
        "erp",
        site="P100",
        open_book=ErpBook,
        build=lambda book, parts: Erp(
            book,
            parts,
            user=required_environment("PLANT_ERP_USER"),
            password=required_environment("PLANT_ERP_PASSWORD"),
        ),
    )
