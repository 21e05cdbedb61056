"""The bus's own project for the job: orders for two sites, canonical or as an ERP writes them, out over AMQP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bus.bench.job import OUT, SITES, USER, route_of

CANONICAL, NATIVE = "order.release.v1", "erp.production-order.v1"

_SITE = """
[sites.{site}]

[endpoints.mes-{name}]
system = "mes-{name}"
adapter = "amqp"
address = "{address}"
options = {{ exchange = "{out}"{url} }}

[systems.mes-{name}]
role = "MES"
sites = ["{site}"]
owner = "bench"
support = "bench"
"""

_BUS_TOML = f"""
[bus]
name = "bench"

[systems.{USER}]
role = "ERP"
sites = {list(SITES)}
publishes = ["{CANONICAL}", "{NATIVE}"]
owner = "bench"
support = "bench"
"""

_TRANSFORMERS = """
from marshmallow import Schema, fields
from marshmallow.validate import Length, Range, Regexp

from bus import Contract, OrderingKey, Outgoing, transformer, write_json

NO_BLANKS = Regexp(r"\\S(.*\\S)?\\Z")


def identifier():
    return fields.String(required=True, validate=[Length(min=1, max=40), NO_BLANKS])


def amount():
    return fields.Decimal(required=True, validate=Range(min=0))


class Header(Schema):
    id = identifier()
    type = fields.String(required=True)
    priority = fields.Integer(required=True)


class Material(Schema):
    id = identifier()
    text = fields.String(required=True)


class Quantity(Schema):
    value = amount()
    uom = identifier()


class Operation(Schema):
    id = identifier()
    workCenter = identifier()
    text = fields.String(required=True)
    minutes = amount()


class Order(Schema):
    order = fields.Nested(Header, required=True)
    site = identifier()
    material = fields.Nested(Material, required=True)
    quantity = fields.Nested(Quantity, required=True)
    lot = identifier()
    start = fields.AwareDateTime(required=True)
    end = fields.AwareDateTime(required=True)
    operations = fields.List(fields.Nested(Operation), required=True)
    planner = fields.String()
    storage = fields.Dict()
    costCenter = fields.String()


class NativeOperation(Schema):
    Operation = identifier()
    WorkCenter = identifier()
    Text = fields.String(required=True)
    Minutes = amount()


class NativeOrder(Schema):
    ManufacturingOrder = identifier()
    ManufacturingOrderType = fields.String(required=True)
    Priority = fields.Integer(required=True)
    ProductionPlant = identifier()
    Material = identifier()
    MaterialName = fields.String(required=True)
    TotalQuantity = amount()
    ProductionUnit = identifier()
    Batch = identifier()
    ScheduledStart = fields.AwareDateTime(required=True)
    ScheduledEnd = fields.AwareDateTime(required=True)
    to_Operation = fields.List(fields.Nested(NativeOperation), required=True)
    MRPController = fields.String()


class Step(Schema):
    number = identifier()
    station = identifier()
    minutes = amount()


class Job(Schema):
    jobId = identifier()
    site = identifier()
    product = identifier()
    target = amount()
    unit = identifier()
    lot = identifier()
    begin = fields.AwareDateTime(required=True)
    end = fields.AwareDateTime(required=True)
    steps = fields.List(fields.Nested(Step), required=True)


def contract(name, schema, path, **more):
    return Contract(
        type=name, owner="ERP", support="bench", schema=schema, key=OrderingKey("order", path), **more
    )


CONTRACTS = (
    contract(
        "order.release.v1", Order, "order.id", canonical=True, identity=("order.id",), searchable=SEARCHABLE
    ),
    contract("erp.production-order.v1", NativeOrder, "ManufacturingOrder"),
    contract("mes.job.v1", Job, "jobId"),
)


@transformer(takes="erp.production-order.v1", makes="order.release.v1")
def order_release(opened, context):
    native = opened.document
    return Outgoing(
        type="order.release.v1",
        body=write_json(
            {
                "order": {
                    "id": native["ManufacturingOrder"],
                    "type": native["ManufacturingOrderType"],
                    "priority": native["Priority"],
                },
                "site": native["ProductionPlant"],
                "material": {"id": native["Material"], "text": native["MaterialName"]},
                "quantity": {"value": native["TotalQuantity"], "uom": native["ProductionUnit"]},
                "lot": native["Batch"],
                "start": native["ScheduledStart"],
                "end": native["ScheduledEnd"],
                "operations": [
                    {
                        "id": each["Operation"],
                        "workCenter": each["WorkCenter"],
                        "text": each["Text"],
                        "minutes": each["Minutes"],
                    }
                    for each in native["to_Operation"]
                ],
                "planner": native["MRPController"],
            }
        ),
    )


@transformer(takes="order.release.v1", makes="mes.job.v1")
def job(opened, context):
    order = opened.document
    return Outgoing(
        type="mes.job.v1",
        body=write_json(
            {
                "jobId": order["order"]["id"],
                "site": order["site"],
                "product": order["material"]["id"],
                "target": order["quantity"]["value"],
                "unit": order["quantity"]["uom"],
                "lot": order["lot"],
                "begin": order["start"],
                "end": order["end"],
                "steps": [
                    {"number": each["id"], "station": each["workCenter"], "minutes": each["minutes"]}
                    for each in order["operations"]
                ],
            }
        ),
    )
"""

_ROUTES = f"""
from bus import BUS, Route, field, on
from transformers.orders import job, order_release

ROUTES = (
    Route(name="orders-become-canonical", when=on("{NATIVE}"), transform=order_release, to=BUS),
    *(
        Route(
            name=name,
            when=on("{CANONICAL}") & (field("site") == site) & (field("quantity.value") > 0),
            transform=job,
            to=endpoint,
        )
        for name, site, endpoint in {[(route_of(site), site, f"mes-{site.lower()}") for site in SITES]}
    ),
)
"""


def write_project(folder: Path, *, searchable: Sequence[str] = (), urls: Mapping[str, str] = {}) -> None:
    """Write the project into the folder, which is made.

    `searchable`: paths of an order that may be searched by. `urls`: site → name of the environment variable with the
    URL at which its MES is reached; the others are reached at the bus's own broker.
    """
    transformers = f"SEARCHABLE = {tuple(searchable)!r}\n{_TRANSFORMERS}"
    files = {
        "bus.toml": _BUS_TOML + "".join(_site(site, urls.get(site, "")) for site in SITES),
        "routes/__init__.py": "",
        "routes/orders.py": _ROUTES,
        "transformers/__init__.py": "",
        "transformers/orders.py": transformers,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _site(site: str, variable: str) -> str:
    address, url = ("amqp://127.0.0.1", f', url = "env:{variable}"') if variable else ("broker", "")
    return _SITE.format(site=site, name=site.lower(), out=OUT, address=address, url=url)
