"""The simulated plant and the transformers understand each other: an order's whole way, without broker or store."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus import BUS, Opened, Outgoing
from bus.model.route import RouteTable
from tests.plant.b2mml import read_schedule, write_performance
from tests.plant.mes_book import Job, MesBook
from tests.plant.mes_p100 import DialectP100
from tests.plant.mes_p200 import DialectP200
from tests.plant.orders import make_order
from tests.plant.postings import Posting, read_posting
from tests.plant.process import Parts
from tests.plant.shopfloor import carry_out
from tests.project.project import only, opened, outputs
from tests.project.test_routes import ROUTES

ENTITIES = {
    "sap.production-order-confirmation.v2": "ProdnOrdConf2",
    "sap.material-document.v1": "A_MaterialDocumentHeader",
}
BEGIN, FINISH = datetime(2026, 3, 2, 7, tzinfo=UTC), datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
TABLE = RouteTable(ROUTES)


def followed(message: Opened, system: str, site: str) -> Iterator[Outgoing]:
    """What leaves towards endpoints when the message and all it becomes are routed."""
    for selection in TABLE.select(message):
        route = selection.route
        if route.transform is None:
            yield Outgoing(type=message.message.type, body=message.message.body)
        elif route.to == BUS:
            for child in outputs(route.transform, message, system):
                yield from followed(opened(child.type, child.body, system=system, site=site), system, site)
        else:
            yield from outputs(route.transform, message, route.to)  # endpoints are named as their systems


def release_for(site: str, number: int) -> tuple[dict[str, Any], Outgoing]:
    order = make_order(number, site=site, seed=7, created=BEGIN)
    message = opened("sap.production-order.v2", json.dumps(order).encode(), site=site)
    (sent,) = followed(message, "erp", site)
    return order, sent


def accepted_by_the_erp(sent: Outgoing) -> Posting:
    return read_posting(ENTITIES[sent.type], only([sent]))


@pytest.mark.parametrize("number", range(1_000_100, 1_000_130))
def test_the_books_of_p100_and_the_erp_agree_about_an_order(number: int) -> None:
    order, sent = release_for("P100", number)
    work = read_schedule(sent.body, site="P100")
    assert work.order == order["ManufacturingOrder"]
    assert len(work.operations) == len(order["to_ProductionOrderOperation"]["results"])
    assert len(work.components) == len(order["to_ProductionOrderComponent"]["results"])

    for index in range(len(work.operations)):
        result = carry_out(work, index, system="mes-p100", begin=BEGIN, finish=FINISH)
        body = write_performance(work, result, sender="mes-p100", bom=index % 2 == 0)
        message = opened("b2mml.performance.v1", body, system="mes-p100")
        confirmation, *movements = map(accepted_by_the_erp, followed(message, "mes-p100", "P100"))

        assert confirmation.operation == result.operation.id
        assert confirmation.quantities["yield"] == f"{result.good.normalize():f}"
        assert len(movements) == len(result.consumed) + (result.output is not None)


@pytest.mark.parametrize("number", range(1_000_200, 1_000_230))
def test_the_books_of_p200_and_the_erp_agree_about_an_order(number: int) -> None:
    dialect = DialectP200(user="bus", password="secret")
    order, sent = release_for("P200", number)
    work = dialect.read_order(sent.body)
    assert work.order == order["ManufacturingOrder"]
    steps = dialect.steps(work)

    native = [
        publication
        for done in range(steps)
        for publication in dialect.perform(Job(1, "JOB-1", work, steps, done, BEGIN), FINISH)
    ]

    sent_to_endpoints: list[Outgoing] = []
    for publication in native:
        type_name = publication.properties["type"]
        message = opened(type_name, publication.body, system="mes-p200", site="P200")
        assert message.message.subject == publication.properties["headers"]["subject"]
        sent_to_endpoints += followed(message, "mes-p200", "P200")
    states = [only([each])["to"] for each in sent_to_endpoints if each.type == "order.state-changed.v1"]
    postings = [accepted_by_the_erp(each) for each in sent_to_endpoints if each.type in ENTITIES]
    assert states == ["Running", "Completed"]
    assert len(postings) == len(native) - 2
    lines = {movement.get("ReservationItem") for posting in postings for movement in posting.movements}
    assert len(lines - {None}) == len(work.components)


def test_what_machines_of_p100_say_is_canonical(tmp_path: Path) -> None:
    book = MesBook(tmp_path / "mes-p100.db")
    parts = SimpleNamespace(publisher=SimpleNamespace(wake=lambda: None))

    DialectP100(book, cast(Parts, parts), token="secret").commands()["publish-equipment"]({"count": 5})

    publications = [publication for _, publication in book.pending_publications()]
    book.close()
    assert len(publications) == 5
    for publication in publications:
        message = opened("equipment.status-changed.v1", publication.body, system="mes-p100")
        assert message.message.subject == publication.properties["headers"]["subject"]
        assert [each.type for each in followed(message, "mes-p100", "P100")] == ["equipment.status-changed.v1"]
