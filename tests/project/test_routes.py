"""The routes: which message goes where, and who is asked when it fails."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bus import BUS, Route
from bus.model.predicate import All, AnyOf, Comparison, Not, Predicate
from bus.model.route import RouteTable, types_of
from tests.project.project import contracts, example, modules, opened

ROUTES = [route for module in modules("routes") for route in getattr(module, "ROUTES", ())]
TABLE = RouteTable(ROUTES)


def receivers(type_name: str, body: bytes, site: str = "P100") -> list[str]:
    return [selection.route.name for selection in TABLE.select(opened(type_name, body, site=site))]


@pytest.mark.parametrize(
    ("type_name", "site", "expected"),
    [
        ("sap.production-order.v2", "P100", ["sap-orders-become-releases"]),
        ("b2mml.operations-schedule.v1", "P100", ["b2mml-schedules-become-releases"]),
        ("b2mml.performance.v1", "P100", ["b2mml-performance-becomes-reports"]),
        ("mes-p200.operation-confirm.v1", "P200", ["mes-p200-confirmations-become-canonical"]),
        ("mes-p200.consumption.v1", "P200", ["mes-p200-consumptions-become-canonical"]),
        ("mes-p200.output.v1", "P200", ["mes-p200-outputs-become-canonical"]),
        ("mes-p200.order-state.v1", "P200", ["mes-p200-order-states-become-canonical"]),
        ("operation.confirm.v1", "P100", ["confirmations-to-erp"]),
        ("material.post-consumption.v1", "P100", ["consumptions-to-erp"]),
        ("production.report-output.v1", "P100", ["outputs-to-erp"]),
        ("order.state-changed.v1", "P100", ["order-states-to-plant-events"]),
        ("equipment.status-changed.v1", "P100", ["equipment-status-to-machine-events"]),
    ],
)
def test_a_message_goes_to_its_receivers(type_name: str, site: str, expected: list[str]) -> None:
    assert receivers(type_name, example(type_name), site) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"site": "P100"}, ["released-orders-to-mes-p100"]),
        ({"site": "P200"}, ["released-orders-to-mes-p200"]),
        ({"site": "P300"}, []),
        ({"quantity": {"value": "0", "uom": "PCE"}}, []),
    ],
)
def test_a_release_goes_to_the_mes_of_its_site(changes: dict[str, Any], expected: list[str]) -> None:
    body = json.dumps(json.loads(example("order.release.v1")) | changes).encode()

    assert receivers("order.release.v1", body) == expected


@pytest.mark.parametrize(
    "changes",
    [{"OrderIsReleased": ""}, {"OrderIsTechnicallyCompleted": "X"}, {"OrderIsDeleted": "X"}],
    ids=["not released", "technically completed", "deleted"],
)
def test_an_order_that_may_not_be_executed_is_accepted_and_goes_nowhere(changes: dict[str, str]) -> None:
    body = json.dumps(json.loads(example("sap.production-order.v2"))["d"] | changes).encode()

    assert receivers("sap.production-order.v2", body) == []


def test_an_order_that_says_nothing_of_completion_is_released() -> None:
    entity = json.loads(example("sap.production-order.v2"))["d"]
    del entity["OrderIsTechnicallyCompleted"]

    assert receivers("sap.production-order.v2", json.dumps(entity).encode()) == ["sap-orders-become-releases"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_a_route_fits_its_contracts_and_says_who_is_asked(route: Route) -> None:
    assert "@" in route.owner
    assert "@" in route.support
    assert types_of(route) <= contracts().keys()
    if route.transform is not None:
        assert types_of(route) <= set(route.transform.takes)
        assert set(route.transform.makes) <= contracts().keys()
    if route.to == BUS and route.transform is not None:
        assert all(contracts()[made].canonical for made in route.transform.makes)


def _fields(predicate: Predicate) -> Iterator[str]:
    """The document paths a predicate reads."""
    if isinstance(predicate, Comparison):
        if predicate.source == "field":
            yield predicate.path
    elif isinstance(predicate, All | AnyOf):
        for part in predicate.parts:
            yield from _fields(part)
    elif isinstance(predicate, Not):
        yield from _fields(predicate.part)


def test_routes_read_only_fields_that_their_contracts_declare() -> None:
    for route in ROUTES:
        for path in _fields(route.predicate):
            for type_name in types_of(route):
                fields = contracts()[type_name].checker.fields
                assert path.split(".")[0] in fields, f"{route.name} reads {path}, unknown to {type_name}"


def test_only_these_endpoints_are_needed() -> None:
    assert {route.to for route in ROUTES} == {BUS, "erp", "mes-p100", "mes-p200", "plant-events", "machine-events"}
