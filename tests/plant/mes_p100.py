"""MES P100: takes B2MML V0701 operations schedules, publishes B2MML performance and equipment status."""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tests.plant.b2mml import Unreadable, read_schedule, write_acknowledgement, write_performance
from tests.plant.book import Publication, order_key, stamp
from tests.plant.listener import Answer, Request
from tests.plant.mes import Mes, NotUnderstood
from tests.plant.mes_book import Job, MesBook
from tests.plant.process import Command, Parts, required_environment, run
from tests.plant.shopfloor import WorkOrder, carry_out
from tests.plant.wire import compose

SYSTEM = "mes-p100"
SITE = "P100"
ZONE = ZoneInfo("Europe/Berlin")
PERFORMANCE_TYPE = "b2mml.performance.v1"
EQUIPMENT_TYPE = "equipment.status-changed.v1"
EQUIPMENT = ("P1-CUT-01", "P1-MILL-02", "P1-ASM-03", "P1-MIX-04")
EQUIPMENT_STATES = ("Running", "Idle", "Down")


class DialectP100:
    """B2MML both ways. Every third document starts with a byte order mark, as this product likes to do."""

    order_path = "/b2mml/operations-schedule"

    def __init__(self, book: MesBook, parts: Parts, *, token: str) -> None:
        self._book = book
        self._parts = parts
        self._authorization = f"Bearer {token}"

    def knows_caller(self, request: Request) -> bool:
        return secrets.compare_digest(request.headers.get("authorization", "").encode(), self._authorization.encode())

    def login_wanted(self) -> str:
        return "Bearer"

    def read_order(self, body: bytes) -> WorkOrder:
        try:
            return read_schedule(body, site=SITE)
        except Unreadable as reason:
            raise NotUnderstood(str(reason)) from reason

    def acknowledgement(self, order: str, job_id: str) -> Answer:
        document = write_acknowledgement(order, job_id, sender=SYSTEM, now=datetime.now(ZONE))
        return Answer(200, document, "application/xml")

    def refusal(self, status: int, code: str, text: str, headers: Mapping[str, str]) -> Answer:
        return Answer(status, f"{code}: {text}".encode(), "text/plain; charset=utf-8", headers)

    def steps(self, work: WorkOrder) -> int:
        return len(work.operations)

    def perform(self, job: Job, now: datetime) -> Sequence[Publication]:
        begin, finish = job.changed_at.astimezone(ZONE), now.astimezone(ZONE)
        result = carry_out(job.work, job.steps_done, system=SYSTEM, begin=begin, finish=finish)
        with_bom = (job.n + job.steps_done) % 3 == 0
        order = order_key(job.work.order)
        return [
            compose(
                write_performance(job.work, result, sender=SYSTEM, bom=with_bom),
                type=PERFORMANCE_TYPE,
                system=SYSTEM,
                site=SITE,
                message_id=str(result.id),
                subject=f"order:{order}",
                time=now,
                content_type="application/xml",
                order_number=order,
            )
        ]

    def commands(self) -> Mapping[str, Command]:
        return {"publish-equipment": self._publish_equipment}

    def _publish_equipment(self, command: Mapping[str, Any]) -> object:
        count = int(command.get("count", 1))
        with self._book.transaction():
            self._book.write_publications(*(self._equipment_status() for _ in range(count)))
        self._parts.publisher.wake()
        return {"count": count}

    def _equipment_status(self) -> Publication:
        total = self._book.count_up("equipment")
        equipment = EQUIPMENT[total % len(EQUIPMENT)]
        sequence = self._book.count_up(equipment)
        now = datetime.now(UTC)
        content = {
            "equipment": {"id": equipment, "site": SITE},
            "state": EQUIPMENT_STATES[sequence % len(EQUIPMENT_STATES)],
            "since": stamp(now),
            "sequence": sequence,
        }
        return compose(
            json.dumps(content).encode(),
            type=EQUIPMENT_TYPE,
            system=SYSTEM,
            site=SITE,
            message_id=f"{equipment}-{sequence}",
            subject=f"equipment:{equipment}",
            time=now,
        )


def _build(book: MesBook, parts: Parts) -> Mes:
    return Mes(book, parts, DialectP100(book, parts, token=required_environment("PLANT_MES_P100_TOKEN")))


if __name__ == "__main__":
    run(SYSTEM, site=SITE, open_book=MesBook, build=_build)
