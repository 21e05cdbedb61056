"""The audited job that every contender does, and what it is given: orders of 0.7 kB for two sites.

Receive an order → check it → store it and the route chosen → make the MES's job of it → send that to the site's
exchange → record each of these steps. Acknowledged late, published persistent and confirmed, on quorum queues.
"""

from __future__ import annotations

import json

from bus.broker.publisher import Publication
from bus.model.envelope import PERSISTENT

SITES = ("P1", "P2")
USER = "bench"
"""The broker's user, and in the bus's own project the system that releases orders."""
RECEIVE, TRANSFORM, SEND = "receive", "transform", "send"
"""The peers' queues; the bus has its own."""
OUT = "bus.out"
"""The topic exchange on which the MES listen."""

_OPERATIONS = (
    {"workCenter": "CUT-01", "text": "Saw bars to length", "minutes": "240.0"},
    {"workCenter": "MIL-04", "text": "Mill housing, drill flanges", "minutes": "615.5"},
    {"workCenter": "ASM-02", "text": "Assemble, test for leaks", "minutes": "380.0"},
)
_INSTRUCTION = "; clamp, check the zero point against the drawing, run the program, gauge the first part"


def route_of(site: str) -> str:
    return f"orders-to-mes-{site.lower()}"


def routing_key_out(site: str) -> str:
    return f"{site}.{USER}.mes.job.v1"


def order(number: int, *, site: str = "", operations: int = 3, instructions: int = 0) -> bytes:
    """The canonical order with this number; every other one is for the second site.

    `site`: for this one instead; `instructions`: how many bytes of them each operation has.
    """
    steps = [{"id": f"{10 * (at + 1):04}", **_OPERATIONS[at % len(_OPERATIONS)]} for at in range(operations)]
    for step in steps:
        step["text"] += (_INSTRUCTION * (instructions // len(_INSTRUCTION) + 1))[:instructions]
    return json.dumps(
        {
            "order": {"id": order_id(number), "type": "PP01", "priority": 50},
            "site": site or SITES[number % len(SITES)],
            "material": {"id": "FG-PUMP-0815", "text": "Centrifugal pump 40-160, cast iron"},
            "quantity": {"value": "120.000", "uom": "EA"},
            "lot": "L260302-0017",
            "start": "2026-03-02T06:00:00+01:00",
            "end": "2026-03-03T14:00:00+01:00",
            "operations": steps,
            "planner": "PP-NORTH",
            "storage": {"location": "FG01", "bin": "12-04-03"},
            "costCenter": "CC-4711",
        }
    ).encode()


def native_order(number: int) -> bytes:
    """The same order as an ERP writes it; the bus makes it canonical first."""
    return json.dumps(
        {
            "ManufacturingOrder": order_id(number),
            "ManufacturingOrderType": "PP01",
            "Priority": "050",
            "ProductionPlant": SITES[number % len(SITES)],
            "Material": "FG-PUMP-0815",
            "MaterialName": "Centrifugal pump 40-160, cast iron",
            "TotalQuantity": "120.000",
            "ProductionUnit": "EA",
            "Batch": "L260302-0017",
            "ScheduledStart": "2026-03-02T06:00:00+01:00",
            "ScheduledEnd": "2026-03-03T14:00:00+01:00",
            "to_Operation": [
                {"Operation": "0010", "WorkCenter": "CUT-01", "Text": "Saw bars to length", "Minutes": "240.0"},
                {
                    "Operation": "0020",
                    "WorkCenter": "MIL-04",
                    "Text": "Mill housing, drill flanges",
                    "Minutes": "615.5",
                },
                {"Operation": "0030", "WorkCenter": "ASM-02", "Text": "Assemble, test for leaks", "Minutes": "380.0"},
            ],
            "MRPController": "PP-NORTH",
        }
    ).encode()


def order_id(number: int) -> str:
    return f"{number:012d}"


def plain_publication(number: int) -> Publication:
    """An order for a peer that reads plain JSON."""
    return Publication(
        exchange="",
        routing_key=RECEIVE,
        body=order(number),
        properties={
            "message_id": order_id(number),
            "content_type": "application/json",
            "delivery_mode": PERSISTENT,
        },
    )
