"""The order and the MES's job as the peers check and make them: pydantic, which compiles its checks.

FastStream and Celery both bring support for it, and it is the fastest check that a careful author would pick.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from bus.bench.job import SITES, route_of

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^\S(.*\S)?$")]
Amount = Annotated[Decimal, Field(ge=0)]


class Part(BaseModel):
    """Fields it does not know are kept."""

    model_config = ConfigDict(extra="allow")


class Header(Part):
    id: Identifier
    type: str
    priority: int


class Material(Part):
    id: Identifier
    text: str


class Quantity(Part):
    value: Amount
    uom: Identifier


class Operation(Part):
    id: Identifier
    workCenter: Identifier  # noqa: N815  # the name is the document's
    text: str
    minutes: Amount


class Order(Part):
    order: Header
    site: Identifier
    material: Material
    quantity: Quantity
    lot: Identifier
    start: AwareDatetime
    end: AwareDatetime
    operations: list[Operation]

    @property
    def route(self) -> str:
        """
        Raises:
            ValueError: there is no route for it.
        """
        if self.site not in SITES or self.quantity.value <= 0:
            raise ValueError(f"order {self.order.id}: no route for site {self.site!r}")
        return route_of(self.site)


class Step(BaseModel):
    number: Identifier
    station: Identifier
    minutes: Amount


class Job(BaseModel):
    jobId: Identifier  # noqa: N815  # the name is the document's
    site: Identifier
    product: Identifier
    target: Amount
    unit: Identifier
    lot: Identifier
    begin: AwareDatetime
    end: AwareDatetime
    steps: list[Step]


def job_of(order: Order) -> Job:
    return Job(
        jobId=order.order.id,
        site=order.site,
        product=order.material.id,
        target=order.quantity.value,
        unit=order.quantity.uom,
        lot=order.lot,
        begin=order.start,
        end=order.end,
        steps=[Step(number=each.id, station=each.workCenter, minutes=each.minutes) for each in order.operations],
    )
