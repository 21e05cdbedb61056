"""What both MES do alike: take an order once per idempotency key, refuse what they do not know, carry it out."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from tests.plant.book import Call, Publication, order_key
from tests.plant.execution import Execution
from tests.plant.faults import Fault
from tests.plant.listener import Answer, Cut, Request, json_answer
from tests.plant.mes_book import Job, MesBook
from tests.plant.process import Command, Parts
from tests.plant.shopfloor import WorkOrder


class NotUnderstood(Exception):
    """The document is not what this MES reads; answered with 400 and the reason."""


class Dialect(Protocol):
    """What one product speaks: its login, its documents in and out."""

    order_path: str

    def knows_caller(self, request: Request) -> bool: ...
    def login_wanted(self) -> str: ...
    def read_order(self, body: bytes) -> WorkOrder: ...
    def acknowledgement(self, order: str, job_id: str) -> Answer: ...
    def refusal(self, status: int, code: str, text: str, headers: Mapping[str, str]) -> Answer: ...
    def steps(self, work: WorkOrder) -> int: ...
    def perform(self, job: Job, now: datetime) -> Sequence[Publication]: ...
    def commands(self) -> Mapping[str, Command]: ...


class Mes:
    """A system of execution behind its HTTP port."""

    def __init__(self, book: MesBook, parts: Parts, dialect: Dialect) -> None:
        self._book = book
        self._parts = parts
        self._dialect = dialect
        self._taking = threading.Lock()
        self._unknown: set[str] = set()
        self._execution = Execution(book, dialect.perform, published=parts.publisher.wake)

    def start(self) -> None:
        self._execution.start()

    def stop(self) -> None:
        self._execution.stop()

    def answer(self, request: Request) -> Answer:
        if request.path == "/health" and request.method == "GET":
            return json_answer({"system": self._parts.name, "status": "up"})
        call = Call(request.method, request.path, external_id=request.headers.get("idempotency-key", ""))
        status = 0
        try:
            answer = self._answer(request, call)
            status = answer.status
        except Cut:
            call.note += "connection cut"
            raise
        finally:
            self._book.note_call(call, status)
        return answer

    def commands(self) -> Mapping[str, Command]:
        return {
            "unknown": self._forget_material,
            "correct": self._correct,
            "pace": self._pace,
            **self._dialect.commands(),
        }

    def open_book(self) -> Mapping[str, object]:
        requests = self._book.requests()
        return {
            "jobs": self._book.jobs(),
            "published": self._book.published(),
            "requests": requests,
            "refused": [each for each in requests if each["status"] >= 400],
        }

    def _answer(self, request: Request, call: Call) -> Answer:
        if self._parts.password_rotated or not self._dialect.knows_caller(request):
            return self._refuse(call, 401, "login", "who are you?", {"WWW-Authenticate": self._dialect.login_wanted()})
        if request.path != self._dialect.order_path:
            return self._refuse(call, 404, "path", f"there is nothing at {request.path}")
        if request.method != "POST":
            return self._refuse(call, 405, "method", "only POST is understood here", {"Allow": "POST"})
        call.entity = "order"
        try:
            work = self._dialect.read_order(request.body)
        except NotUnderstood as reason:
            return self._refuse(call, 400, "malformed", str(reason))
        call.order_number = order_key(work.order)
        return self._take_unless_troubled(request, call, work)

    def _take_unless_troubled(self, request: Request, call: Call, work: WorkOrder) -> Answer:
        met = self._parts.faults.meet(method=call.method, entity=call.entity, order=call.order_number)
        self._parts.stopping.wait(met.seconds)
        fault = met.before_booking()
        if fault is not None:
            return self._fail(call, fault)
        answer = self._take(request, call, work)
        if answer.status >= 400:
            return answer
        outcome = met.after_booking(answer)
        return self._fail(call, outcome) if isinstance(outcome, Fault) else outcome

    def _take(self, request: Request, call: Call, work: WorkOrder) -> Answer:
        key, digest = call.external_id, hashlib.sha256(request.body).hexdigest()
        # One at a time: two requests with one key must not both find it new.
        with self._taking:
            before = self._book.remembered(key) if key else None
            if before is not None and before.digest != digest:
                return self._refuse(call, 422, "key-reused", f"key {key} came before with another body")
            if before is not None:
                call.note = "known key; "
                return self._dialect.acknowledgement(work.order, before.job_id)
            if work.material in self._unknown or call.order_number in self._unknown:
                return self._refuse(call, 422, "unknown-material", f"material {work.material} is not in master data")
            job_id = self._book.take_order(work, key=key, digest=digest, steps=self._dialect.steps(work))
        call.note = "booked; "
        self._execution.wake()
        return self._dialect.acknowledgement(work.order, job_id)

    def _fail(self, call: Call, fault: Fault) -> Answer:
        return self._refuse(call, fault.status, "commanded", "the system is in trouble", fault.headers)

    def _refuse(
        self, call: Call, status: int, code: str, text: str, headers: Mapping[str, str] | None = None
    ) -> Answer:
        call.note += f"{code}: {text}"
        return self._dialect.refusal(status, code, text, headers or {})

    def _forget_material(self, command: Mapping[str, Any]) -> object:
        """`{"material": …}` or `{"order": …}`: 422 from now on."""
        self._unknown.add(_what(command))
        return {"unknown": sorted(self._unknown)}

    def _correct(self, command: Mapping[str, Any]) -> object:
        """The master data were corrected; without a name, all of them."""
        if command:
            self._unknown.discard(_what(command))
        else:
            self._unknown.clear()
        return {"unknown": sorted(self._unknown)}

    def _pace(self, command: Mapping[str, Any]) -> object:
        self._execution.set_pace(seconds=command.get("seconds"), held=command.get("held"))
        return {"seconds": self._execution.pace, "held": self._execution.is_held}


def _what(command: Mapping[str, Any]) -> str:
    return order_key(str(command["order"])) if "order" in command else str(command["material"])
