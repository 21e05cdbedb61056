"""What the parts of `make bench` make of what they see, and what a part that breaks costs the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from io import StringIO
from urllib.parse import urlsplit

import pytest
from rich.console import Console

from bus.bench.frame import Benchmark, Finding
from bus.bench.process import children_of, cpu_seconds, resident_bytes, words_of
from bus.bench.services import Services
from tests.benchmarks import event_flood, history, outage, payload, routing
from tests.benchmarks.__main__ import PARTS, Course, Progress
from tests.benchmarks.contract_check import reading_an_order
from tests.benchmarks.door import Door
from tests.benchmarks.footprint import Memory, role_of
from tests.benchmarks.wanted import QUICK, Wanted


@pytest.mark.parametrize("count", [10, 1_000])
def test_of_any_number_of_routes_three_match(count: int) -> None:
    table = routing.a_table(count)

    selected = [table.select(opened) for opened in routing.messages(count // 3)]

    assert {len(each) for each in selected} == {3}


def test_payloads_have_the_sizes_that_are_claimed_for_them() -> None:
    sizes = {name: len(orders.body(1)) for name, orders in payload.SIZES.items()}

    assert sizes == pytest.approx({"0.5kB": 500, "20kB": 20_000, "1MB": 1_000_000}, rel=0.03)


def test_reading_an_order_takes_time() -> None:
    assert reading_an_order() > 0


def test_a_process_is_known_with_its_memory_and_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        try:
            assert child.pid in set(children_of(os.getpid()))
            assert resident_bytes(child.pid) > 0
            assert cpu_seconds(os.getpid()) > 0
        finally:
            child.communicate(b"\n")
    with pytest.raises(ProcessLookupError):
        words_of(child.pid)


def test_a_process_of_the_bus_is_named_by_its_role() -> None:
    python = ["python", "-m", "bus"]

    assert role_of([*python, "run", "--project", "/p"]) == "run"
    assert role_of([*python, "--project", "/p", "router", "--class", "event", "--supervised"]) == "router.event"
    assert role_of([*python, "--project", "/p", "relay", "--supervised", "-o", "json"]) == "relay"


def test_memory_that_grows_has_a_slope_per_hour_and_what_comes_first_does_not_count() -> None:
    memory = Memory({"relay": [(0.0, 10.0), (1.0, 70.0), (2.0, 70.0), (3.0, 71.0), (4.0, 72.0), (5.0, 73.0)]})

    assert memory.slopes() == pytest.approx({"relay": 3600.0})
    assert memory.most() == {"relay": 73.0}


def test_a_full_store_is_compared_round_by_round() -> None:
    empty = {("pipeline", history.RATE): [2000.0, 1000.0], ("status", history.ASKED): [4.0, 8.0]}
    full = {("pipeline", history.RATE): [1000.0, 1000.0], ("status", history.ASKED): [4.0, 12.0]}

    ratios = {
        each.name: each.values
        for each in history.findings("sqlite", empty, full, history=50, messages=10)
        if each.name.endswith("ratio")
    }

    assert ratios == {
        "history.sqlite.pipeline.ratio": (2.0, 1.0),
        "history.sqlite.status.statements.ratio": (1.0, 1.5),
    }


def test_an_orders_latency_is_never_beyond_what_was_seen() -> None:
    assert event_flood.Latencies.of([float(number) for number in range(1, 11)]).p99 <= 10.0


def test_an_outage_is_told_by_calls_by_the_others_rate_and_by_the_drain() -> None:
    one = outage.Found(
        span=20.0, calls_few=5, calls_many=6, rate_without=1000.0, rate_meanwhile=950.0, drain=12.0, noticed=2.0
    )

    values = {each.name: each.values for each in outage.findings([one], many=5_000, others=300)}

    assert values["outage.calls.100"] == (5.0,)
    assert values["outage.calls.5000"] == (6.0,)
    assert values["outage.others.share"] == (95.0,)
    assert values["outage.drain.rate"] == (500.0,)


def test_a_shut_door_turns_everybody_away_and_counts_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        port = broker.getsockname()[1]
        with Door(f"amqp://u:p@127.0.0.1:{port}/vhost") as door:
            address = urlsplit(door.url)
            through = socket.create_connection((address.hostname, address.port))
            server, _ = broker.accept()
            through.sendall(b"AMQP")
            assert server.recv(4) == b"AMQP"

            door.shut()
            assert through.recv(1) == b""
            turned_away = socket.create_connection((address.hostname, address.port))
            assert turned_away.recv(1) == b""
            assert len(door.turned_away) == 1
            for each in (through, server, turned_away):
                each.close()


def test_a_part_that_breaks_does_not_lose_what_the_others_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(services: Services, wanted: Wanted) -> list[Benchmark]:
        raise ZeroDivisionError("no number")

    def finds(services: Services, wanted: Wanted) -> list[Benchmark]:
        return [Benchmark("finds", "msg/s", lambda: [Finding(name="finds", unit="msg/s", values=(7.0,))])]

    monkeypatch.setitem(PARTS, "breaks", breaks)
    monkeypatch.setitem(PARTS, "finds", finds)
    course = Course(Progress(Console(file=StringIO())))

    findings = list(course.measure(["finds", "breaks", "finds"], QUICK, postgresql=""))

    assert [(each.name, each.failed) for each in findings] == [("finds", False), ("breaks", True), ("finds", False)]
    assert findings[1].error == "ZeroDivisionError: no number"
    assert course.report.findings == findings
