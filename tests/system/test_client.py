"""The client at a real broker: three lines, confirmed, in order per subject, with errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from bus.broker.consumer import Consumer
from bus.broker.publisher import Outcome
from bus.client import Fact, Line, connect
from bus.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from bus.model.envelope import Envelope
from tests.services import Vhost
from tests.system.a_plant import ORDER, REPORT, Plant, a_plant, read
from tests.system.tcp_line import TcpLine

AT_ONCE = timedelta(seconds=0.5)
BRIEF = timedelta(seconds=4)
"""Enough for a connection and a confirm on a busy machine, and no longer than a test can wait for it to end."""


@pytest.fixture
def plant(vhost: Vhost) -> Plant:
    return a_plant(vhost)


@pytest.fixture
def line(plant: Plant) -> Iterator[TcpLine]:
    with TcpLine(plant.url("mes")) as line:
        yield line


def arrived(plant: Plant, count: int) -> list[Envelope]:
    consumer = Consumer(plant.url("bus"), "bus.in.transaction.0")
    found = read(consumer, count)
    consumer.close()
    return found


def test_three_lines_publish_a_fact_with_everything_the_bus_wants_to_know(plant: Plant) -> None:
    before = datetime.now(UTC)

    with connect(plant.url("mes"), system="mes", site="P100") as line:
        line.publish(REPORT, {"order": "4711", "note": "für"}, subject="order:4711", message_id="m-1")

    [envelope] = arrived(plant, 1)
    assert json.loads(envelope.body) == {"order": "4711", "note": "für"}
    assert envelope.routing_key == f"P100.mes.{REPORT}"
    assert envelope.properties == {
        "type": REPORT,
        "app_id": "mes",
        "user_id": f"{plant.vhost.name}-mes",
        "content_type": "application/json",
        "message_id": "m-1",
        "delivery_mode": 2,
    }
    assert envelope.headers["site"] == "P100"
    assert envelope.headers["subject"] == "order:4711"
    assert before <= datetime.fromisoformat(envelope.headers["time"]) <= datetime.now(UTC)


def test_a_fact_bears_the_number_its_system_gave_it_also_when_it_is_published_again(plant: Plant) -> None:
    with connect(plant.url("mes"), system="mes", site="P100") as line:
        line.publish(REPORT, b"1", subject="order:1", message_id="m-1", sequence=1)
        line.publish_many([Fact(type=REPORT, body=b"2", sequence=2), Fact(type=REPORT, body=b"3")])
        line.publish(REPORT, b"1", subject="order:1", message_id="m-1", sequence=1)

    assert [envelope.headers.get("sequence") for envelope in arrived(plant, 4)] == [1, 2, None, 1]


def test_a_number_that_no_message_may_bear_is_refused_before_anything_is_sent(plant: Plant) -> None:
    impossible: list[Any] = [-1, 10**18, True, "7", 1.0]

    with connect(plant.url("mes"), system="mes", site="P100") as line:
        for sequence in impossible:
            with pytest.raises(ConfigurationError, match="a whole number from 1 is expected"):
                line.publish_many([Fact(type=REPORT, body=b"1"), Fact(type=REPORT, body=b"2", sequence=sequence)])
        line.publish(REPORT, b"3")

    assert [envelope.body for envelope in arrived(plant, 1)] == [b"3"]


def test_bytes_go_out_as_they_are(plant: Plant) -> None:
    with connect(plant.url("mes"), system="mes", site="P100") as line:
        line.publish(REPORT, b"<a/>", content_type="application/xml")

    assert [envelope.body for envelope in arrived(plant, 1)] == [b"<a/>"]


def test_a_type_or_system_of_somebody_else_is_refused_and_the_line_goes_on(plant: Plant) -> None:
    with connect(plant.url("mes"), system="mes", site="P100") as line:
        with pytest.raises(PublishRefused, match="publishes"):
            line.publish(ORDER, b"{}")
        line.publish(REPORT, b"{}")
    with connect(plant.url("mes"), system="erp", site="P100") as line, pytest.raises(PublishRefused):
        line.publish(ORDER, b"{}")

    assert [envelope.routing_key for envelope in arrived(plant, 1)] == [f"P100.mes.{REPORT}"]


def test_many_facts_have_one_outcome_each(plant: Plant) -> None:
    facts = [Fact(type=REPORT, body=str(number).encode(), subject="order:1") for number in range(500)]
    facts[250] = Fact(type=ORDER, body=b"mine?")

    with connect(plant.url("mes"), system="mes", site="P100") as line:
        outcomes = line.publish_many(facts)

    assert [at for at, outcome in enumerate(outcomes) if outcome is not None] == [250]
    assert isinstance(outcomes[250], PublishRefused)
    first_times = list(dict.fromkeys(int(envelope.body) for envelope in arrived(plant, 499)))
    assert first_times == sorted(first_times)


def test_a_fact_whose_confirm_was_lost_goes_again_before_any_later_one(plant: Plant, line: TcpLine) -> None:
    with connect(line.url, system="mes", site="P100", patience=BRIEF) as mes:
        line.freeze()
        with pytest.raises(BrokerUnavailable):
            mes.publish(REPORT, b"1", subject="order:1", message_id="m-1")
        line.thaw()
        mes.publish(REPORT, b"2", subject="order:1", message_id="m-2")

    found = [(envelope.properties["message_id"], envelope.body) for envelope in arrived(plant, 2)]
    assert found[0] == ("m-1", b"1")


def test_a_fact_published_again_by_its_system_after_an_error_is_sent_once_more_not_twice(
    plant: Plant, line: TcpLine
) -> None:
    with connect(line.url, system="mes", site="P100", patience=BRIEF) as mes:
        line.cut()
        line.freeze()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                mes.publish(REPORT, b"1", subject="order:1", message_id="m-1")
        line.cut()
        line.thaw()
        mes.publish(REPORT, b"1", subject="order:1", message_id="m-1")
        mes.publish(REPORT, b"2", subject="order:1", message_id="m-2")

    assert [envelope.body for envelope in arrived(plant, 2)] == [b"1", b"2"]


def test_a_fact_that_its_queue_does_not_take_just_now_goes_before_any_later_one(plant: Plant) -> None:
    full = Fact(type=REPORT, body=b"full", subject="order:1", message_id="m-full")
    with connect(plant.url("mes"), system="mes", site="P100", patience=BRIEF) as mes:
        fill(plant, mes, full)
        management(plant, "DELETE", f"queues/{plant.vhost.name}/bus.in.transaction.0/contents")
        later = Fact(type=REPORT, body=b"later", subject="order:1", message_id="m-later")
        while mes.publish_many([later]) != [None]:
            pass  # a slow broker: the line keeps it

    consumer = Consumer(plant.url("bus"), "bus.in.transaction.0")
    bodies = [envelope.body for envelope in read(consumer, 1)]
    while b"later" not in bodies:
        bodies += [envelope.body for envelope in read(consumer, 1)]
    consumer.close()
    assert list(dict.fromkeys(bodies)) == [b"full", b"later"]


def fill(plant: Plant, line: Line, fact: Fact) -> None:
    """Give the inbound queue a limit and publish until it is refused."""
    limit = {"pattern": r"^bus\.in\.transaction", "definition": {"max-length": 10}, "apply-to": "queues"}
    management(plant, "PUT", f"policies/{plant.vhost.name}/short", limit)
    outcome: Outcome = None
    while "could not keep the message" not in str(outcome):
        [outcome] = line.publish_many([fact])
    assert isinstance(outcome, BrokerUnavailable)


def management(plant: Plant, method: str, path: str, body: object = None) -> None:
    login = (plant.vhost.admin_user, plant.vhost.admin_password)
    url = f"{plant.vhost.management_url}/api/{path}"
    httpx.request(method, url, json=body, auth=login, timeout=30).raise_for_status()


def test_a_line_that_is_closed_says_what_was_never_confirmed(plant: Plant, line: TcpLine) -> None:
    mes = connect(line.url, system="mes", site="P100", patience=AT_ONCE)
    line.freeze()
    with pytest.raises(BrokerUnavailable):
        mes.publish(REPORT, b"1", message_id="m-1")

    with pytest.raises(BrokerUnavailable, match=r"1 messages were never confirmed: m-1"):
        mes.close()
    line.thaw()


def test_a_cut_line_is_found_again_within_one_publish(plant: Plant, line: TcpLine) -> None:
    with connect(line.url, system="mes", site="P100") as mes:
        mes.publish(REPORT, b"1")
        line.cut()
        mes.publish(REPORT, b"2")

    assert [envelope.body for envelope in arrived(plant, 2)] == [b"1", b"2"]


def test_a_broker_that_is_not_there_is_said_with_the_next_step() -> None:
    with pytest.raises(BrokerUnavailable, match="start RabbitMQ there"):
        connect("amqp://mes:secret@127.0.0.1:1/plant", system="mes", site="P100")


@pytest.mark.parametrize(("system", "site"), [("mes.p1", "P100"), ("mes", "P 100"), ("", "P100")])
def test_a_name_that_cannot_stand_in_a_routing_key_is_refused(system: str, site: str) -> None:
    with pytest.raises(ConfigurationError, match="letters and digits"):
        connect("amqp://mes:secret@127.0.0.1:1/plant", system=system, site=site)
