"""What happens on a shop floor: an order is carried out operation by operation; pure and repeatable."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5


@dataclass(frozen=True)
class Operation:
    id: str
    requirement: str  # the sender's own name for this step of the order, echoed
    segment: str  # what the sender calls the kind of work, echoed
    work_centre: str


@dataclass(frozen=True)
class Component:
    line: str
    material: str
    quantity: Decimal
    unit: str
    operation: str


@dataclass(frozen=True)
class WorkOrder:
    """An order as the MES understood it; `order` is spelled as it came."""

    order: str
    material: str
    quantity: Decimal
    unit: str
    site: str
    operations: tuple[Operation, ...]
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Consumption:
    id: UUID
    component: Component
    quantity: Decimal
    lot: str


@dataclass(frozen=True)
class Output:
    id: UUID
    quantity: Decimal
    lot: str


@dataclass(frozen=True)
class Result:
    """One operation done. Only the last operation of an order gives an output."""

    id: UUID
    operation: Operation
    good: Decimal
    scrap: Decimal
    rework: Decimal
    begin: datetime
    finish: datetime
    worker: str
    is_final: bool
    consumed: tuple[Consumption, ...]
    output: Output | None


def carry_out(work: WorkOrder, index: int, *, system: str, begin: datetime, finish: datetime) -> Result:
    """The same order and operation give the same ids, quantities and lots whenever they are carried out."""
    operation = work.operations[index]
    chance = random.Random(f"{system}/{work.order}/{operation.id}")
    scrap = _step(work.unit) * chance.choice((0, 0, 0, 0, 1, 2))
    rework = _step(work.unit) * chance.choice((0, 0, 0, 0, 0, 1))
    is_final = index == len(work.operations) - 1
    lot = f"{work.site[1]}{int(work.order) % 10**7:07d}" if work.order.isdigit() else work.order[-8:]
    return Result(
        id=_identity(system, work, operation.id, "confirmation"),
        operation=operation,
        good=work.quantity - scrap - rework,
        scrap=scrap,
        rework=rework,
        begin=begin,
        finish=finish,
        worker=f"W{chance.randint(100, 140)}",
        is_final=is_final,
        consumed=tuple(
            Consumption(
                _identity(system, work, operation.id, f"consumption-{component.line}"),
                component,
                component.quantity,
                f"R{chance.randint(10**6, 10**7 - 1)}",
            )
            for component in work.components
            if _consumed_at(work, component) == operation.id
        ),
        output=Output(_identity(system, work, operation.id, "output"), work.quantity - scrap - rework, lot)
        if is_final
        else None,
    )


def as_record(work: WorkOrder) -> dict[str, Any]:
    """For the book: quantities as text."""
    record = asdict(work)
    record["quantity"] = str(work.quantity)
    for component in record["components"]:
        component["quantity"] = str(component["quantity"])
    return record


def from_record(record: Mapping[str, Any]) -> WorkOrder:
    return WorkOrder(
        order=record["order"],
        material=record["material"],
        quantity=Decimal(record["quantity"]),
        unit=record["unit"],
        site=record["site"],
        operations=tuple(Operation(**each) for each in record["operations"]),
        components=tuple(Component(**{**each, "quantity": Decimal(each["quantity"])}) for each in record["components"]),
    )


def _consumed_at(work: WorkOrder, component: Component) -> str:
    """A component without a known operation is used at the first one."""
    known = {each.id for each in work.operations}
    return component.operation if component.operation in known else work.operations[0].id


def _step(unit: str) -> Decimal:
    return Decimal("0.5") if unit.upper() in ("KG", "KGM", "KILO") else Decimal(1)


def _identity(system: str, work: WorkOrder, operation: str, kind: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"urn:{system}:{work.order}:{operation}:{kind}")
