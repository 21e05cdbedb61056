"""A store in which a bad day at the plant is recorded: dead, doubtful, held, invalid and well delivered messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bus.errors import OutcomeUnknown, PermanentFailure
from bus.model.envelope import Envelope
from bus.project import Project, load_project
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, ScriptedEndpoint

ROOT = Path(__file__).resolve().parents[2]
REFUSED = "order:1000123"
"""Its release was refused by mes-p100; a second release of it waits behind."""
DOUBTFUL = "order:1000456"
"""Its confirmation to the ERP is in doubt."""
BOOKED = "order:1000100"
"""Released, confirmed, and booked by the ERP under D1."""


def sap_order(order: str, *, site: str = "P100", changed: str = "20260302060000", **fields: Any) -> dict[str, Any]:
    """A production order as SAP states it."""
    return {
        "ManufacturingOrder": order,
        "OrderIsReleased": "X",
        "LastChangeDateTime": changed,
        "Material": "FG-PASTE-A1",
        "ProductionPlant": site,
        "ProductionVersion": "0001",
        "ProductionUnit": "KG",
        "TotalQuantity": "125.5",
        "MfgOrderScheduledStartDate": "/Date(1772582400000)/",
        "MfgOrderScheduledStartTime": "PT07H00M00S",
        "MfgOrderScheduledEndDate": "/Date(1772668800000)/",
        "MfgOrderScheduledEndTime": "PT10H22M30S",
    } | fields


def envelope(type_name: str, body: bytes | Mapping[str, Any], *, system: str, site: str, id: str = "") -> Envelope:  # noqa: A002
    """What that system publishes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {"message_id": id, "content_type": "application/json"}
    return Envelope(
        routing_key=f"{site}.{system}.{type_name}",
        body=raw,
        properties={name: value for name, value in properties.items() if value},
    )


def order(number: str, **more: Any) -> Envelope:
    document = sap_order(number, **more)
    return envelope(
        "sap.production-order.v2",
        document,
        system="erp",
        site=document["ProductionPlant"],
        id=f"{number}-{document['LastChangeDateTime']}",
    )


def confirmation(project: Project, order_number: str, id: str) -> Envelope:  # noqa: A002
    document = json.loads(project.catalogue.contracts["mes-p200.operation-confirm.v1"].examples[0])
    document |= {"order": order_number, "id": id}
    return envelope("mes-p200.operation-confirm.v1", document, system="mes-p200", site="P200", id=id)


def make_plant_store(path: Path) -> None:
    """Record the day in a new SQLite store."""
    record_the_day(f"sqlite:///{path}")


def record_the_day(store_url: str) -> None:
    """Record the day in an empty database."""
    project = load_project(ROOT)
    database = Database(store_url)
    upgrade(database)
    store = SqlStore(database)
    refusal = PermanentFailure("target.422", "MATERIAL_UNKNOWN: material FG-PASTE-A1 is not known here")
    lost = OutcomeUnknown("outcome.timeout", "no answer within 5 s")
    adapters = {
        "mes-p100": ScriptedEndpoint(script={REFUSED: [refusal]}),
        "mes-p200": ScriptedEndpoint(),
        "erp": ScriptedEndpoint(remembers_keys=False, script={DOUBTFUL: [lost]}),
        "plant-events": ScriptedEndpoint(),
        "machine-events": ScriptedEndpoint(),
    }
    bus = DirectBus(store, project.catalogue, adapters)
    bus.receive(order("000001000100"), order("000001000123"))
    bus.run_until_idle()
    bus.receive(order("000001000123", changed="20260302070000"), order("000001000124", OrderIsReleased=""))
    bus.receive(confirmation(project, "1000456", "0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01"))
    bus.receive(confirmation(project, "1000100", "0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a02"))
    bus.run_until_idle()
    bus.receive(order("000001000100"), order("000001000100", TotalQuantity="99"))
    bus.receive(envelope("sap.production-order.v2", b'{"ManufacturingOrder": \x1b[31m"1"', system="erp", site="P100"))
    bus.receive(envelope("sap.production-order.v2", sap_order("1"), system="mes-p100", site="P100"))
    adapters["mes-p200"].is_up = False
    bus.receive(order("000002000001", site="P200"), order("000002000002", site="P200"))
    bus.run_until_idle()
    store.take_lease("relay", "relay:test:1", instead_of=None)
    store.fold_totals()
    database.close()
