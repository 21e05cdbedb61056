"""MES P200: takes canonical order releases as JSON, publishes its own types with its own words."""

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from tests.plant.book import Publication, order_key
from tests.plant.listener import Answer, Request, json_answer
from tests.plant.mes import Mes, NotUnderstood
from tests.plant.mes_book import Job, MesBook
from tests.plant.process import Command, Parts, required_environment, run
from tests.plant.shopfloor import Component, Consumption, Operation, Output, Result, WorkOrder, carry_out
from tests.plant.wire import compose

SYSTEM = "mes-p200"
SITE = "P200"
ZONE = ZoneInfo("Europe/Berlin")  # its documents carry local times and never say so

# The words of this product for what the rest of the plant calls by UN/ECE Rec 20 codes.
UNIT_WORDS = {"EA": "stk", "C62": "stk", "H87": "stk", "PCE": "stk", "PC": "stk", "KGM": "kilo", "KG": "kilo"}


class DialectP200:
    """Canonical in, native out. A job has a step for its start, one for each operation, and one for its end."""

    order_path = "/orders"

    def __init__(self, *, user: str, password: str) -> None:
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def knows_caller(self, request: Request) -> bool:
        return secrets.compare_digest(request.headers.get("authorization", "").encode(), self._authorization.encode())

    def login_wanted(self) -> str:
        return 'Basic realm="MES P200"'

    def read_order(self, body: bytes) -> WorkOrder:
        try:
            return _read_release(json.loads(body))
        except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
            raise NotUnderstood(f"not an order release: {type(error).__name__} {error}") from error

    def acknowledgement(self, order: str, job_id: str) -> Answer:
        return json_answer({"order": order, "jobId": job_id, "status": "FREIGEGEBEN"})

    def refusal(self, status: int, code: str, text: str, headers: Mapping[str, str]) -> Answer:
        return json_answer({"error": {"code": code, "text": text}}, status, headers)

    def steps(self, work: WorkOrder) -> int:
        return len(work.operations) + 2

    def perform(self, job: Job, now: datetime) -> Sequence[Publication]:
        work, index = job.work, job.steps_done - 1
        if index < 0:
            return [_order_state(work, 1, "FREIGEGEBEN", "LAEUFT", now)]
        if index == len(work.operations):
            return [_order_state(work, 2, "LAEUFT", "FERTIG", now)]
        result = carry_out(work, index, system=SYSTEM, begin=job.changed_at, finish=now)
        consumptions = [_consumption(work, result, each, now) for each in result.consumed]
        outputs = [_output(work, result.output, now)] if result.output else []
        return [*consumptions, _confirmation(work, result, now), *outputs]

    def commands(self) -> Mapping[str, Command]:
        return {}


def _read_release(release: Mapping[str, Any]) -> WorkOrder:
    operations = tuple(
        Operation(
            id=str(each["id"]), requirement=str(each["id"]), segment="", work_centre=str(each.get("workCenter", ""))
        )
        for each in release["operations"]
    )
    if not operations:
        raise ValueError("an order has at least one operation")
    return WorkOrder(
        order=str(release["order"]["id"]),
        material=str(release["material"]["id"]),
        quantity=Decimal(release["quantity"]["value"]),
        unit=_unit_word(release["quantity"]["uom"]),
        site=str(release.get("site", SITE)),
        operations=operations,
        components=tuple(
            _read_component(line, position) for position, line in enumerate(release.get("components") or [], start=1)
        ),
    )


def _read_component(line: Mapping[str, Any], position: int) -> Component:
    material, quantity = line["material"], line["quantity"]
    nested = isinstance(quantity, Mapping)
    return Component(
        line=str(line.get("line", position)),
        material=str(material["id"] if isinstance(material, Mapping) else material),
        quantity=Decimal(quantity["value"] if nested else quantity),
        unit=_unit_word(quantity["uom"] if nested else line["uom"]),
        operation=str(line.get("operation", "")),
    )


def _unit_word(code: str) -> str:
    if code not in UNIT_WORDS:
        raise ValueError(f"unit {code} is not known here")
    return UNIT_WORDS[code]


def _confirmation(work: WorkOrder, result: Result, now: datetime) -> Publication:
    content = {
        "confirmationId": str(result.id),
        "order": work.order,
        "operation": result.operation.id,
        "good": f"{result.good:f}",
        "scrap": f"{result.scrap:f}",
        "rework": f"{result.rework:f}",
        "unit": work.unit,
        "scrapReason": "AUSSCHUSS-MATERIAL" if result.scrap else None,
        "status": "FERTIG" if result.is_final else "LAEUFT",
        "begin": _local(result.begin),
        "finish": _local(result.finish),
        "worker": result.worker,
        "final": True,
    }
    return _publication("mes-p200.operation-confirm.v1", str(result.id), work, content, now)


def _consumption(work: WorkOrder, result: Result, used: Consumption, now: datetime) -> Publication:
    content = {
        "consumptionId": str(used.id),
        "order": work.order,
        "operation": result.operation.id,
        "line": used.component.line,
        "material": used.component.material,
        "lot": used.lot,
        "quantity": f"{used.quantity:f}",
        "unit": used.component.unit,
        "storage": "RM01",
        "last": True,
        "at": _local(now),
    }
    return _publication("mes-p200.consumption.v1", str(used.id), work, content, now)


def _output(work: WorkOrder, made: Output, now: datetime) -> Publication:
    content = {
        "declarationId": str(made.id),
        "order": work.order,
        "material": work.material,
        "lot": made.lot,
        "quantity": f"{made.quantity:f}",
        "unit": work.unit,
        "kind": "GUT",
        "storage": "FG01",
        "stock": "FREI",
        "made": f"{now.astimezone(ZONE):%Y-%m-%d}",
        "at": _local(now),
    }
    return _publication("mes-p200.output.v1", str(made.id), work, content, now)


def _order_state(work: WorkOrder, sequence: int, before: str, after: str, now: datetime) -> Publication:
    content = {"order": work.order, "sequence": sequence, "from": before, "to": after, "at": _local(now)}
    identity = f"{order_key(work.order)}-state-{sequence}"
    return _publication("mes-p200.order-state.v1", identity, work, content, now)


def _publication(kind: str, identity: str, work: WorkOrder, content: Mapping[str, Any], now: datetime) -> Publication:
    order = order_key(work.order)
    return compose(
        json.dumps(content).encode(),
        type=kind,
        system=SYSTEM,
        site=SITE,
        message_id=identity,
        subject=f"order:{order}",
        time=now,
        order_number=order,
    )


def _local(moment: datetime) -> str:
    return f"{moment.astimezone(ZONE):%Y-%m-%d %H:%M:%S}"


def _build(book: MesBook, parts: Parts) -> Mes:
    user = required_environment("PLANT_MES_P200_USER")
    return Mes(book, parts, DialectP200(user=user, password=required_environment("PLANT_MES_P200_PASSWORD")))


if __name__ == "__main__":
    run(SYSTEM, site=SITE, open_book=MesBook, build=_build)
