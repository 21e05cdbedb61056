"""Real documents of real systems sent the real way: over AMQP, through the router, along the project's own routes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from bus.bootstrap import complaints_of
from bus.broker.consumer import Consumer
from bus.broker.declare import declare
from bus.broker.management import Management
from bus.broker.publisher import Publication
from bus.broker.router import run_router
from bus.model.message_class import MessageClass
from bus.model.topology import UNROUTED, queues_of
from bus.pipeline.receive import receive
from bus.project import Project, load_project, topology_of
from bus.store import schema
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.verify import verify
from bus.testing import DirectBus, ScriptedEndpoint
from tests.project.test_samples import FILES, FOLDER, entities, operations_schedule_schema, order_1000000
from tests.services import Vhost
from tests.system.small_plant import ROOT, Ledger, eventually, published

pytestmark = pytest.mark.samples

ORDER, SCHEDULE, PERFORMANCE = "sap.production-order.v2", "b2mml.operations-schedule.v1", "b2mml.performance.v1"


@dataclass
class Plant:
    """The repository's own project: a router at a real broker, workers in this process, targets that keep books."""

    project: Project
    vhost: Vhost
    bus: DirectBus
    targets: dict[str, ScriptedEndpoint]
    ledger: Ledger

    def publish(self, *publications: Publication, system: str = "erp") -> None:
        """As the system does, logged in as its own user; returns when each is a message or a receipt."""
        before = self.recorded()
        host = self.vhost.amqp_url.rpartition("@")[2]
        url = f"amqp://{self.project.settings.systems[system].user}:secret@{host}"
        assert published(url, *publications) == [None] * len(publications)
        eventually(lambda: self.recorded() == before + len(publications))

    def recorded(self) -> int:
        received = t.message.c.parent.is_(None)
        return len(self.ledger.messages(received)) + len(self.ledger.receipts())

    def message(self, message_id: str) -> Any:
        [row] = self.ledger.messages(t.message.c.message_id == message_id)
        return row


@pytest.fixture
def plant(vhost: Vhost, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    monkeypatch.setenv("BUS_FOLDER", str(tmp_path))
    monkeypatch.setenv("BUS_STORE", store_url)
    monkeypatch.setenv("BUS_BROKER", vhost.amqp_url)
    project = of_this_vhost(load_project(ROOT), vhost)
    assert complaints_of(project) == ()
    topology = topology_of(project)
    declare(topology, vhost.amqp_url)
    login = {"user": vhost.admin_user, "password": vhost.admin_password}
    with Management(vhost.management_url, vhost=vhost.name, **login) as management:
        systems = replace(topology, users=topology.users[1:])
        management.apply_users(systems, reveal=lambda reference: "secret")
    targets = {name: ScriptedEndpoint() for name in project.settings.endpoints}
    with ExitStack() as stack:
        database = Database(store_url)
        stack.callback(database.close)
        schema.upgrade(database)
        ledger = Ledger(database)
        bus = DirectBus(ledger.store, project.catalogue, targets)
        stack.enter_context(routing(project, vhost, bus))
        yield Plant(project, vhost, bus, targets, ledger)
        assert list(verify(database)) == []


def of_this_vhost(project: Project, vhost: Vhost) -> Project:
    """Users named after the vhost: a broker's users are everybody's; and an ERP that publishes schedules, too."""
    systems = {
        name: replace(
            system,
            user=f"{vhost.name}-{name}",
            publishes=(*system.publishes, SCHEDULE) if name == "erp" else system.publishes,
        )
        for name, system in project.settings.systems.items()
    }
    settings = replace(project.settings, systems=systems)
    return replace(project, settings=settings, catalogue=replace(project.catalogue, systems=systems))


class routing:  # noqa: N801  # used as a function
    """The router's own loop on every inbound queue."""

    def __init__(self, project: Project, vhost: Vhost, bus: DirectBus) -> None:
        self._stop = threading.Event()
        keep = partial(
            receive,
            store=bus.store,
            catalogue=project.catalogue,
            telemetry=bus.telemetry,
            max_bytes=project.settings.max_bytes,
        )
        queues = [queue for each in MessageClass for queue in queues_of(each)]
        self._threads = [
            threading.Thread(
                target=run_router, args=(Consumer(vhost.amqp_url, queue), keep, lambda queues: None, self._stop)
            )
            for queue in (*queues, UNROUTED)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def a_document(body: bytes, type_name: str, message_id: str, *, system: str = "erp", site: str = "P100") -> Publication:
    content_type = "application/json" if type_name == ORDER else "application/xml"
    return Publication(
        exchange="bus.in",
        routing_key=f"{site}.{system}.{type_name}",
        body=body,
        properties={"message_id": message_id, "type": type_name, "content_type": content_type, "delivery_mode": 2},
    )


def released(order: str = "1000000") -> bytes:
    """The real order with the release flag edited, its real components and operations beside it."""
    return order_1000000(
        ManufacturingOrder=order,
        OrderIsReleased="X",
        OrderIsTechnicallyCompleted="",
        to_ProductionOrderComponent=entities("production-order-02-component-sample"),
        to_ProductionOrderOperation={"results": entities("production-order-04-operation-sample")},
    )


@pytest.fixture(scope="module")
def operations_schedule_xsd(tmp_path_factory: pytest.TempPathFactory) -> etree.XMLSchema:
    return operations_schedule_schema(tmp_path_factory.mktemp("xsd"))


def test_the_real_order_is_technically_completed_accepted_and_goes_nowhere(plant: Plant) -> None:
    plant.publish(a_document(order_1000000(), ORDER, "real"))
    plant.bus.run_until_idle()

    message = plant.message("real")
    assert (message.subject, message.planned) == ("order:1000000", 0)
    assert message.body == order_1000000()
    assert all(target.received == [] for target in plant.targets.values())


def test_the_real_order_released_reaches_the_mes_of_p100_as_valid_b2mml(
    plant: Plant, operations_schedule_xsd: etree.XMLSchema
) -> None:
    plant.publish(a_document(order_1000000(), ORDER, "before"), a_document(released(), ORDER, "released"))
    plant.bus.run_until_idle()

    [schedule] = plant.targets["mes-p100"].received
    document = etree.fromstring(schedule)
    operations_schedule_xsd.assertValid(document)
    texts = {element.text for element in document.iter()}
    assert {"1000000", "500", "0010", "0020", "2017-06-06T07:00:00+02:00"} <= texts
    assert plant.ledger.receipts() == []


def test_the_real_order_released_reaches_the_mes_of_p200_as_a_canonical_release(plant: Plant) -> None:
    plant.publish(a_document(released(), ORDER, "released", site="P200"))
    plant.bus.run_until_idle()

    [release] = plant.targets["mes-p200"].received
    plant.project.catalogue.contracts["order.release.v1"].read(release)
    document = json.loads(release)
    assert document["order"] == {"id": "1000000", "system": "erp"}
    assert document["quantity"] == {"value": "500", "uom": "PCE"}
    assert [operation["id"] for operation in document["operations"]] == ["0010", "0020"]
    assert document["components"][0]["line"] == "1/8"


def test_an_id_with_leading_zeros_is_the_same_order_in_the_same_lane(plant: Plant) -> None:
    plant.publish(a_document(released(), ORDER, "plain"), a_document(released("000001000000"), ORDER, "padded"))
    plant.bus.run_until_idle()

    assert plant.message("plain").subject == plant.message("padded").subject == "order:1000000"
    assert len(plant.targets["mes-p100"].received) == 2


def test_a_real_schedule_that_lacks_what_a_release_needs_is_invalid_with_a_list_of_it(plant: Plant) -> None:
    (path,) = (FOLDER / "b2mml-mesa").glob("PRO-*.xml")

    plant.publish(a_document(path.read_bytes(), SCHEDULE, path.name))

    [receipt] = plant.ledger.receipts()
    assert (receipt.kind, receipt.cause, receipt.body) == ("invalid", "contract.violated", path.read_bytes())
    assert len(receipt.detail.splitlines()) == 4
    assert "OperationsRequest[0].StartTime: " in receipt.detail


def test_a_real_performance_of_an_older_version_is_posted_to_the_erp(plant: Plant) -> None:
    body = (FOLDER / "commander4j" / "S95_ProductionPerformance.xml").read_bytes()

    plant.publish(a_document(body, PERFORMANCE, "pallet", system="mes-p100"), system="mes-p100")
    plant.bus.run_until_idle()

    [posting] = plant.targets["erp"].received
    [item] = json.loads(posting)["to_MaterialDocumentItem"]["results"]
    assert (item["ManufacturingOrder"], item["Batch"]) == ("20725187", "6214093310")
    assert (item["QuantityInEntryUnit"], item["GoodsMovementType"]) == ("5616", "101")


def test_every_real_document_is_recorded_with_a_clear_reason_and_good_ones_pass_between_them(plant: Plant) -> None:
    as_orders = [a_document(path.read_bytes(), ORDER, f"{path.name} as an order") for path in FILES]
    as_schedules = [a_document(path.read_bytes(), SCHEDULE, f"{path.name} as a schedule") for path in FILES]
    as_performances = [
        a_document(path.read_bytes(), PERFORMANCE, f"{path.name} as a performance", system="mes-p100") for path in FILES
    ]
    assert len(FILES) > 50

    plant.publish(*as_orders, a_document(released(), ORDER, "good one"), *as_schedules)
    plant.publish(*as_performances, system="mes-p100")
    plant.bus.run_until_idle()

    receipts = {receipt.message_id: receipt for receipt in plant.ledger.receipts()}
    taken = plant.ledger.messages(t.message.c.parent.is_(None))
    assert {row.message_id for row in taken} == {"good one", "S95_ProductionPerformance.xml as a performance"}
    for sent in (*as_orders, *as_schedules, *as_performances):
        if sent.properties["message_id"] != "S95_ProductionPerformance.xml as a performance":
            receipt = receipts.pop(sent.properties["message_id"])
            assert receipt.kind == "invalid"
            assert receipt.detail
            assert receipt.body == sent.body
    assert receipts == {}
    assert len(plant.targets["mes-p100"].received) == 1
    no_documents = [row for row in plant.ledger.receipts() if row.cause in ("json.syntax", "xml.syntax")]
    assert len(no_documents) > len(FILES)
    assert all(row.detail.startswith("line ") for row in no_documents)
