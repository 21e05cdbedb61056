"""Production orders as an SAP system writes them, from a seed; pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

SERVICE = "API_PRODUCTION_ORDER_2_SRV"


@dataclass(frozen=True)
class Product:
    material: str
    unit: str
    routing: tuple[tuple[str, str], ...]  # (work centre, what is done), in order
    parts: tuple[tuple[str, str, str], ...]  # (material, quantity for one, unit)


PRODUCTS = (
    Product(
        "FG-PUMP-40",
        "PC",
        (("CUT", "Cut housing"), ("MILL", "Mill seats"), ("ASM", "Assemble"), ("TEST", "Pressure test")),
        (("RM-STEEL-08", "3.3", "KG"), ("RM-SEAL-12", "4", "PC"), ("RM-BOLT-M6", "8", "PC"), ("PK-BOX-S", "1", "PC")),
    ),
    Product(
        "FG-VALVE-15",
        "PC",
        (("TURN", "Turn body"), ("ASM", "Assemble"), ("TEST", "Leak test")),
        (("RM-BRASS-20", "0.334", "KG"), ("RM-SEAL-05", "2", "PC"), ("PK-BOX-S", "1", "PC")),
    ),
    Product(
        "FG-RESIN-K2",
        "KG",
        (("WEIGH", "Weigh"), ("MIX", "Mix and heat"), ("FILL", "Fill drums")),
        (("RM-RESIN-B", "0.82", "KG"), ("RM-HARDEN-3", "0.17", "KG")),
    ),
    Product(
        "FG-PASTE-A1",
        "KG",
        (("MIX", "Mix"), ("FILL", "Fill cartridges")),
        (("RM-PIGMENT-7", "1.05", "KG"),),
    ),
)


def make_order(number: int, *, site: str, seed: int, revision: int = 0, created: datetime) -> dict[str, Any]:
    """The entity A_ProductionOrder_2 with components and operations expanded as V2 does it.

    Equal arguments give equal orders. A later revision changes the quantity and LastChangeDateTime, nothing else.
    """
    chance = random.Random(f"{seed}/{number}")
    product = chance.choice(PRODUCTS)
    noisy = chance.random() < 0.5
    iso_dates = chance.random() < 0.2
    quantity = _order_quantity(product, chance) + revision * 10
    start = created.date() + timedelta(days=chance.randint(1, 5))
    changed = f"{created + timedelta(minutes=revision):%Y%m%d%H%M%S}"
    order = f"{number:012d}"
    operations = [
        _operation(order, index, product, site=site, quantity=quantity, day=start, changed=changed, iso=iso_dates)
        for index in range(len(product.routing))
    ]
    components = [
        _component(order, index, product, site=site, quantity=quantity, day=start, noisy=noisy, iso=iso_dates)
        for index in range(len(product.parts))
    ]
    return {
        "__metadata": {"type": f"{SERVICE}.A_ProductionOrder_2Type"},
        "ManufacturingOrder": order,
        "ManufacturingOrderCategory": "10",
        "ManufacturingOrderType": "PP01",
        "OrderIsCreated": "",
        "OrderIsReleased": "X",
        "OrderIsConfirmed": "",
        "OrderIsDeleted": "",
        "OrderIsLocked": "",
        "OrderIsTechnicallyCompleted": "",
        "OrderIsClosed": "",
        "MfgOrderCreationDate": _edm_date(created.date(), iso=iso_dates),
        "MfgOrderCreationTime": _edm_time(created.time()),
        "LastChangeDateTime": changed,
        "Material": product.material,
        "StorageLocation": "FG01",
        "OrderInternalBillOfOperations": str(number),
        "ProductionPlant": site,
        "Plant": site,
        "MRPArea": site,
        "MRPController": "001",
        "ProductionVersion": "0001",
        "MfgOrderPlannedStartDate": _edm_date(start, iso=iso_dates),
        "MfgOrderPlannedStartTime": "PT00H00M00S",
        "MfgOrderPlannedEndDate": _edm_date(start + timedelta(days=2), iso=iso_dates),
        "MfgOrderPlannedEndTime": "PT00H00M00S",
        "MfgOrderScheduledStartDate": _edm_date(start, iso=iso_dates),
        "MfgOrderScheduledStartTime": "PT07H00M00S",
        "MfgOrderScheduledEndDate": _edm_date(start + timedelta(days=1), iso=iso_dates),
        "MfgOrderScheduledEndTime": "PT10H22M30S",
        "MfgOrderActualReleaseDate": _edm_date(created.date(), iso=iso_dates),
        "ProductionUnit": product.unit,
        "TotalQuantity": _written(quantity, noisy=noisy),
        "MfgOrderPlannedScrapQty": "0",
        "MfgOrderConfirmedYieldQty": "0",
        "to_ProductionOrderComponent": {"results": components},
        "to_ProductionOrderOperation": {"results": operations},
    }


def message_id(order: dict[str, Any]) -> str:
    """The identity of this state of the order, stable however often it is sent."""
    return f"{order['ManufacturingOrder']}-{order['LastChangeDateTime']}"


def operation_ids(order: dict[str, Any]) -> Sequence[str]:
    return [each["ManufacturingOrderOperation"] for each in order["to_ProductionOrderOperation"]["results"]]


def _order_quantity(product: Product, chance: random.Random) -> Decimal:
    if product.unit == "PC":
        return Decimal(chance.randrange(20, 520, 20))
    return Decimal(chance.randint(500, 9999)) / 10


def _operation(
    order: str, index: int, product: Product, *, site: str, quantity: Decimal, day: date, changed: str, iso: bool
) -> dict[str, Any]:
    work_centre, text = product.routing[index]
    hour = 7 + 3 * index
    return {
        "__metadata": {"type": f"{SERVICE}.A_ProductionOrderOperation_2Type"},
        "OrderInternalBillOfOperations": str(int(order)),
        "OrderIntBillOfOperationsItem": str(index + 1),
        "ManufacturingOrder": order,
        "ManufacturingOrderSequence": "0",
        "ManufacturingOrderOperation": _operation_id(index),
        "ManufacturingOrderSubOperation": "",
        "MfgOrderOperationText": text,
        "OperationIsReleased": "X",
        "OperationIsDeleted": "",
        "ProductionPlant": site,
        "WorkCenterTypeCode": "A",
        "WorkCenter": f"{site[:2]}-{work_centre}",
        "OperationControlProfile": "PP01",
        "OpErlstSchedldExecStrtDte": _edm_date(day, iso=iso),
        "OpErlstSchedldExecStrtTme": _edm_time(time(hour)),
        "OpErlstSchedldExecEndDte": _edm_date(day, iso=iso),
        "OpErlstSchedldExecEndTme": _edm_time(time(hour + 2, 45)),
        "OperationUnit": product.unit,
        "OpPlannedTotalQuantity": _written(quantity, noisy=False),
        "OpTotalConfirmedYieldQty": "0",
        "LastChangeDateTime": changed,
    }


def _component(
    order: str, index: int, product: Product, *, site: str, quantity: Decimal, day: date, noisy: bool, iso: bool
) -> dict[str, Any]:
    material, for_one, unit = product.parts[index]
    # A packing material belongs to the last operation, everything else to the first.
    operation = _operation_id(len(product.routing) - 1 if material.startswith("PK-") else 0)
    return {
        "__metadata": {"type": f"{SERVICE}.A_ProductionOrderComponent_3Type"},
        "ManufacturingOrder": order,
        "ManufacturingOrderSequence": "0",
        "ManufacturingOrderOperation": operation,
        "OrderInternalBillOfOperations": str(int(order)),
        "BOMItem": str(index + 1),
        "BillOfMaterialItemNumber": f"{(index + 1) * 10:04d}",
        "Reservation": str(int(order) % 10**9),
        "ReservationItem": str(index + 1),
        "Material": material,
        "Plant": site,
        "ProductionPlant": site,
        "MatlCompRequirementDate": _edm_date(day, iso=iso),
        "MatlCompRequirementTime": "PT07H00M00S",
        "ReservationIsFinallyIssued": False,
        "IsBulkMaterialComponent": False,
        "MatlCompIsMarkedForBackflush": False,
        "StorageLocation": "RM01",
        "Batch": "",
        "GoodsMovementType": "261",
        "BaseUnit": unit,
        "RequiredQuantity": _written(Decimal(for_one) * quantity, noisy=noisy),
        "WithdrawnQuantity": "0",
    }


def _operation_id(index: int) -> str:
    return f"{(index + 1) * 10:04d}"


def _written(quantity: Decimal, *, noisy: bool) -> str:
    """Three decimals at most, or what a binary float makes of them: 3.3 becomes 3.2999999999999998."""
    exact = quantity.quantize(Decimal("0.001"))
    if noisy and exact != exact.to_integral_value():
        return f"{float(exact):.17g}"
    return f"{exact.normalize():f}"


def _edm_date(day: date, *, iso: bool) -> str:
    """Midnight UTC: as `/Date(ms)/`, or as the gateway in front of some systems rewrites it."""
    midnight = datetime.combine(day, time(), tzinfo=UTC)
    if iso:
        return midnight.astimezone(timezone(timedelta(hours=1))).isoformat()
    return f"/Date({int(midnight.timestamp()) * 1000})/"


def _edm_time(moment: time) -> str:
    return f"PT{moment.hour:02d}H{moment.minute:02d}M{moment.second:02d}S"
