"""A small project for tests: one site, one native and one canonical type, two targets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from marshmallow import Schema, fields

from bus.model.catalogue import Catalogue
from bus.model.contract import Contract, Contracts, OrderingKey, without_leading_zeros
from bus.model.document import write_json
from bus.model.message import BUS, Message, Opened, Outgoing
from bus.model.message_class import MessageClass
from bus.model.predicate import field, on
from bus.model.retry import RetryPolicy
from bus.model.route import Route, RouteTable
from bus.model.system import Endpoint, Site, System
from bus.model.transformer import TransformContext, transformer
from bus.testing import a_message

ORDER = OrderingKey("order", "order", without_leading_zeros)
SOON = RetryPolicy(max_attempts=4, first=timedelta(milliseconds=1), factor=1.0, jitter=0.0)


class OrderSchema(Schema):
    order = fields.String(required=True)
    step = fields.Integer(required=True)
    parts = fields.Integer(load_default=1)


class StateSchema(Schema):
    machine = fields.String(required=True)


def _contract(name: str, **more: object) -> Contract:
    return Contract(type=name, owner="MES", support="line 1", schema=OrderSchema, key=ORDER, **more)  # type: ignore[arg-type]  # more names fields of Contract


CONTRACTS = Contracts(
    [
        _contract("test.step.v1", canonical=True, identity=("order", "step"), searchable=("order",)),
        _contract("native.step.v1"),
        _contract("target.step.v1"),
        Contract(
            type="machine.state.v1",
            owner="MES",
            support="line 1",
            schema=StateSchema,
            key=OrderingKey("machine", "machine"),
            message_class=MessageClass.EVENT,
        ),
    ]
)


@transformer(takes="native.step.v1", makes="test.step.v1")
def make_canonical(opened: Opened, context: TransformContext) -> Sequence[Outgoing]:
    """As many canonical steps as `parts` says; order `broken` cannot be made canonical."""
    if opened.document["order"] == "broken":
        raise ValueError("no such order")
    return [
        Outgoing(type="test.step.v1", body=write_json({"order": opened.document["order"], "step": step}))
        for step in range(opened.document["step"], opened.document["step"] + opened.document["parts"])
    ]


@transformer(takes="test.step.v1", makes="target.step.v1")
def for_the_target(opened: Opened, context: TransformContext) -> Sequence[Outgoing]:
    """As many target documents as `parts` says; step 666 cannot be transformed."""
    if opened.document["step"] == 666:
        raise ZeroDivisionError("step 666")
    steps = range(opened.document["step"], opened.document["step"] + opened.document["parts"])
    order = opened.document["order"]
    return [Outgoing(type="target.step.v1", body=write_json({"order": order, "step": step})) for step in steps]


def endpoint(name: str, **options: object) -> Endpoint:
    plain = Endpoint(
        name=name,
        system="target-1",
        adapter="test",
        address="",
        timeout=timedelta(milliseconds=1),
        visible_after=timedelta(milliseconds=1),
    )
    return replace(plain, **options)  # type: ignore[arg-type]  # options name fields of Endpoint


TO_TARGET = Route(
    name="steps-to-target",
    when=on("test.step.v1") & (field("step") != 404),
    to="target",
    transform=for_the_target,
    retry=SOON,
)
TO_BUS = Route(name="steps-become-canonical", when=on("native.step.v1"), to=BUS, transform=make_canonical, retry=SOON)
AS_IT_IS = Route(name="steps-to-archive", when=on("test.step.v1") & (field("step") == 7), to="archive", retry=SOON)


def small_catalogue(*routes: Route, **endpoints: Endpoint) -> Catalogue:
    """The project with these routes (default: native to canonical, canonical to the target)."""
    table = RouteTable(routes or (TO_BUS, TO_TARGET, AS_IT_IS))
    served = {"target": endpoint("target"), "archive": endpoint("archive")} | endpoints
    types = tuple(CONTRACTS)
    return Catalogue(
        contracts=CONTRACTS,
        routes=table,
        sites={"P1": Site(name="P1")},
        systems={
            "mes-1": System(
                name="mes-1", role="MES", sites=("P1",), user="mes-1", publishes=types, owner="it", support="it"
            ),
            "target-1": System(
                name="target-1", role="ERP", sites=("P1",), user="target-1", publishes=(), owner="it", support="it"
            ),
        },
        endpoints=served,
    )


_steps = itertools.count(10_000)


def a_step(order: str = "4711", step: int | None = None, **overrides: object) -> Message:
    """A canonical step of an order."""
    number = next(_steps) if step is None else step
    document = {"order": order, "step": number} | dict(overrides.pop("document", {}))  # type: ignore[call-overload]  # a dict where given
    fields_ = {"type": "test.step.v1", "id": f"{order}-{number}", "body": json.dumps(document).encode()}
    return a_message(**(fields_ | overrides))


def a_native_step(order: str = "4711", step: int = 1, **overrides: object) -> Message:
    """A native step of an order, to be made canonical."""
    return a_step(order, step, **({"type": "native.step.v1", "id": f"native-{order}-{step}"} | overrides))


def steps_of(bodies: Sequence[bytes]) -> list[tuple[str, int]]:
    """(order, step) of each body."""
    return [(document["order"], document["step"]) for document in map(json.loads, bodies)]
