"""Both sides of the reckoning: what the plant's systems wrote down, and what the bus did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import select

from bus.model.ledger import Equation, equations
from bus.model.message import BUS
from bus.store import tables as t
from tests.plant.launch import Plant
from tests.plant.ledger import Ledger

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PlantBooks:
    """The books of the three systems, by system."""

    books: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def read(plant: Plant) -> PlantBooks:
        return PlantBooks({system.name: system.book() for system in plant.systems})

    def published(self, system: str) -> list[Row]:
        return list(self.books[system]["published"])

    def jobs(self, mes: str) -> list[Row]:
        return list(self.books[mes]["jobs"])

    @property
    def documents(self) -> list[Row]:
        return list(self.books["erp"]["documents"])

    def requests(self, system: str) -> list[Row]:
        return list(self.books[system]["requests"])

    @cached_property
    def place_of(self) -> Mapping[tuple[str, str], int]:
        """(system, message id) → where it stands among what the system published."""
        places: dict[tuple[str, str], int] = {}
        for system in self.books:
            for row in self.published(system):
                places.setdefault((system, row["message_id"]), int(row["n"]))
        return places


@dataclass(frozen=True)
class BusBooks:
    """The bus's whole record of the day, from one moment at which nothing was going on."""

    totals: Mapping[tuple[str, str], int]
    messages: Mapping[int, Row]
    deliveries: Mapping[int, Row]
    receipts: list[Row]
    attempts: list[Row]
    outputs: Mapping[int, bytes]
    """What was sent to the ERP, by delivery."""

    @staticmethod
    def read(ledger: Ledger) -> BusBooks:
        d, m, a, r = t.delivery.c, t.message.c, t.attempt.c, t.receipt.c
        deliveries = select(t.delivery, t.lane.c.key.label("subject")).outerjoin(t.lane, t.lane.c.id == d.lane)
        messages = select(m.id, m.message_id, m.system, m.type, m.subject, m.time, m.accepted_at, m.parent)
        attempts = select(a.delivery, a.stage, a.began_at, a.outcome, a.cause, a.detail, a.document, a.late)
        outputs = select(t.output.c.delivery, t.output.c.body).join(t.delivery, d.id == t.output.c.delivery)
        return BusBooks(
            totals=ledger.look().totals,
            messages={row["id"]: row for row in ledger.rows(messages)},
            deliveries={row["id"]: row for row in ledger.rows(deliveries.order_by(d.id))},
            receipts=list(ledger.rows(select(r.kind, r.cause, r.detail, r.system, r.message_id).order_by(r.id))),
            attempts=list(ledger.rows(attempts.order_by(a.id))),
            outputs={row["delivery"]: row["body"] for row in ledger.rows(outputs.where(d.destination == "erp"))},
        )

    @property
    def sums(self) -> tuple[Equation, Equation, Equation]:
        totals: dict[str, int] = {}
        for (measure, _), amount in self.totals.items():
            totals[measure] = totals.get(measure, 0) + amount
        return equations(totals)

    @cached_property
    def delivered(self) -> list[Row]:
        """Delivered to an endpoint."""
        return [d for d in self.deliveries.values() if d["state"] == "DELIVERED" and d["destination"] != BUS]

    def delivered_to(self, endpoint: str) -> list[Row]:
        """In the order of their lanes: by key, then by place."""
        found = [d for d in self.delivered if d["destination"] == endpoint]
        return sorted(found, key=lambda d: (d["subject"] or "", d["place"], d["part"]))

    def received_message(self, delivery: Row) -> Row:
        """The message as it came from the plant, from which this delivery follows."""
        message = self.messages[delivery["message"]]
        while message["parent"] is not None:
            message = self.messages[self.deliveries[message["parent"]]["message"]]
        return message

    def published_at(self, delivery: Row) -> datetime:
        """When the plant wrote down what this delivery follows from."""
        message = self.received_message(delivery)
        moment: datetime = message["time"] or message["accepted_at"]
        return moment

    def external_id(self, delivery: Row) -> str:
        """The id under which the ERP was sent it."""
        document = json.loads(self.outputs[delivery["id"]])
        return str(document.get("ExternalSystemConfirmation") or document.get("ReferenceDocument"))
