"""The benchmark's arithmetic and the shape of its results; what it measures is not judged here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from bus.bench.comparison import QUICK, THOROUGH, benchmarks, paces
from bus.bench.contenders import CELERY, FASTSTREAM, HANDWRITTEN, LIMIT, Contender, Running, measure
from bus.bench.frame import (
    BenchFailure,
    Benchmark,
    Finding,
    Pace,
    Percentiles,
    Round,
    Spread,
    measured_rounds,
    rate_finding,
    rounded,
    run,
)
from bus.bench.job import SITES, native_order, order, route_of
from bus.bench.latency import Latency, due_times, findings, measure_latency
from bus.bench.machine import filesystem_of, sync_seconds
from bus.bench.orders import PLAIN, Orders
from bus.bench.pipeline import pipeline
from bus.bench.project import CANONICAL, NATIVE, write_project
from bus.bench.report import IN_MEMORY, Report, ratio, summary
from bus.bench.services import Services, Stage
from bus.cli.bench import NAMES
from bus.errors import ConfigurationError, NotAvailable
from bus.model.contract import Contract
from bus.model.message import Opened
from bus.model.transformer import TransformContext
from bus.model.values import ValueMaps
from bus.testing import a_message
from tests.benchmarks import payload

BOX = timedelta(seconds=10)


def found(name: str, *values: float) -> Finding:
    return Finding(name=name, unit="msg/s", values=values)


def a_report(*results: Finding, filesystem: str = "ext4") -> Report:
    disk = {"filesystem": filesystem, "fsync_ms": 0.8}
    return Report(
        at=datetime(2026, 3, 2, 6, tzinfo=UTC),
        machine={"cores": 2, "processor": "a processor", "memory_gib": 8.0, "load_before": 0.1, **disk},
        versions={"python": "3.11.7"},
        findings=results,
        message_bytes=706,
    )


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([300.0, 100.0, 140.0]) == Spread(140.0, 100.0, 300.0)


def test_percentiles_are_milliseconds_and_never_beyond_what_was_seen() -> None:
    seconds = [number / 1000 for number in range(1, 1001)]

    assert Percentiles.of(seconds) == Percentiles(p50=500.5, p99=990.01, p99_9=999.0)
    assert Percentiles.of([0.002, 0.004]).p99_9 <= 4.0


def test_rounds_are_as_long_as_the_box_once_it_is_warm() -> None:
    """It takes 3 s to connect, and does 200 messages/s then."""
    asked: list[int] = []

    def attempt(count: int) -> Round:
        asked.append(count)
        return Round(count, count / 200 + (3 if len(asked) == 1 else 0))

    rounds = measured_rounds(attempt, Pace(rounds=3, box=BOX))

    assert [each.rate for each in rounds] == [200.0] * 3
    assert [each.seconds for each in rounds] == [10.0] * 3
    assert sum(asked[:-3]) < 1000


def test_a_size_asked_for_is_what_a_round_gets() -> None:
    rounds = measured_rounds(lambda count: Round(count, 1.0), Pace(rounds=2, box=BOX, messages=1234))

    assert [each.messages for each in rounds] == [1234, 1234]


def test_one_round_is_enough_when_others_wait_for_theirs() -> None:
    rounds = measured_rounds(lambda count: Round(count, 1.0), Pace(rounds=3, box=BOX, enough_after=0.0))

    assert len(rounds) == 1


def test_each_contender_has_a_share_of_the_time_and_the_first_has_two() -> None:
    planned = paces(replace(QUICK, within=timedelta(seconds=80)), 7, now=1000.0)

    assert [each.enough_after - 1000 for each in planned] == pytest.approx([20, 30, 40, 50, 60, 70, 80])
    assert {each.give_up_after for each in planned} == {1080.0}


def test_nothing_is_begun_when_the_time_is_up() -> None:
    with pytest.raises(BenchFailure, match="time for the whole run"):
        measured_rounds(lambda count: Round(count, 1.0), Pace(rounds=1, box=BOX, give_up_after=0.0))


def test_what_fails_says_why_and_the_next_is_measured() -> None:
    def lost() -> Iterable[Finding]:
        raise BenchFailure("of 20 orders 19 were sent")

    def missing() -> Iterable[Finding]:
        raise NotAvailable("not installed")

    def measured() -> Iterable[Finding]:
        yield rate_finding("limit", [Round(1000, 0.5), Round(900, 0.6)])

    told: list[str] = []
    planned = [
        Benchmark("one", "msg/s", lost),
        Benchmark("two", "msg/s", missing),
        Benchmark("three", "msg/s", measured),
    ]
    results = list(run(planned, tell=told.append))

    assert [(each.name, each.failed) for each in results] == [("one", True), ("two", False), ("limit", False)]
    assert results[0].error == "of 20 orders 19 were sent"
    assert results[2].values == (2000.0, 1500.0)
    assert "limit: 1,750 msg/s (1,500 to 2,000)" in told


def test_what_was_found_before_a_failure_is_kept() -> None:
    def half() -> Iterable[Finding]:
        yield found("latency.20.p50", 4.0)
        raise BenchFailure("19 of 20 orders arrived")

    results = list(run([Benchmark("latency", "ms", half)], tell=lambda text: None))

    assert [(each.name, each.error) for each in results] == [
        ("latency.20.p50", ""),
        ("latency", "19 of 20 orders arrived"),
    ]


def test_values_have_four_digits_however_large_they_are() -> None:
    assert rounded([123_456.7, 1.23456, 0.000_123_456]) == (123_500.0, 1.235, 0.0001235)


def test_send_times_are_fixed_beforehand() -> None:
    assert due_times(20, 3, start=100.0) == pytest.approx([100.0, 100.05, 100.1])


# --- results ---------------------------------------------------------------------------------------------------------


def test_the_summary_compares_with_the_better_peer() -> None:
    latencies = [Latency(Percentiles(4.0, 40.0, 60.0), Percentiles(0.1, 0.2, 0.3))]
    results = [
        found("pipeline.postgresql", 2000.0, 1800.0, 2200.0),
        found("pipeline.sqlite", 2500.0),
        found("celery", 90.0),
        found("faststream", 100.0),
        found("handwritten", 2500.0),
        found("limit", 4000.0),
        *findings(100, latencies, count=1000),
    ]

    assert summary(results) == {
        "pipeline": {"postgresql": 2000.0, "sqlite": 2500.0},
        "peers": {"celery": 90.0, "faststream": 100.0, "handwritten": 2500.0},
        "limit": 4000.0,
        "ratios": {"best_peer": 20.0, "handwritten": 0.8, "limit": 0.5},
        "latency_ms": {"p50": 4.0, "p99": 40.0},
    }


def test_what_was_not_measured_is_null_and_no_ratio_is_made_of_it() -> None:
    value = summary([found("pipeline.postgresql", 2000.0), Finding(name="celery", unit="msg/s", error="not here")])

    assert value["pipeline"] == {"postgresql": 2000.0, "sqlite": None}
    assert value["peers"] == {"celery": None, "faststream": None, "handwritten": None}
    assert value["ratios"] == {"best_peer": None, "handwritten": None, "limit": None}
    assert ratio(None, 1.0) is None


def test_the_json_says_machine_versions_sizes_and_spread() -> None:
    failed = Finding(name="celery", unit="msg/s", error="not here")
    report = a_report(rate_finding("limit", [Round(1000, 0.5), Round(900, 0.6)]), failed)

    value = json.loads(json.dumps(report.as_value()))

    assert value["machine"]["cores"] == 2
    assert value["versions"] == {"python": "3.11.7"}
    assert value["message_bytes"] == 706
    assert value["findings"] == [
        {"name": "limit", "unit": "msg/s"}
        | {"median": 1750.0, "min": 1500.0, "max": 2000.0, "values": [2000.0, 1500.0]}
        | {"messages": [1000, 900], "seconds": [0.5, 0.6]},
        {"name": "celery", "unit": "msg/s", "error": "not here"},
    ]


def test_the_table_shows_numbers_and_why_one_is_missing() -> None:
    console = Console(width=120, file=StringIO(), record=True)
    report = a_report(found("limit", 1750.0), Finding(name="celery", unit="msg/s", error="celery not installed here"))

    console.print(report.table())

    text = console.export_text()
    assert "1,750" in text
    assert "celery not installed here" in text


def test_the_caption_says_how_each_contender_does_the_job_and_on_what() -> None:
    alone = {"about": "one transaction per message"}
    results = [Finding(name=name, unit="msg/s", values=(1.0,), notes=alone) for name in ("celery", "faststream")]

    caption = a_report(*results, found("latency.100.p50", 1.0)).caption()

    assert caption.splitlines()[0] == "celery, faststream: one transaction per message"
    assert caption.splitlines()[1:] == [
        "2 cores (a processor), 8.0 GiB, ext4 that syncs in 0.8 ms, load before 0.1; python 3.11.7; orders of 706 bytes"
    ]


def test_numbers_of_a_machine_that_synced_nothing_to_a_disk_say_so() -> None:
    assert IN_MEMORY in a_report(found("limit", 1.0), filesystem="tmpfs").caption()
    assert IN_MEMORY not in a_report(found("limit", 1.0)).caption()


def test_the_disk_is_told_with_what_a_sync_takes(tmp_path: Path) -> None:
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(tmp_path)
    assert sync_seconds(tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


# --- contenders ------------------------------------------------------------------------------------------------------


def test_what_can_be_chosen_is_what_the_plan_measures() -> None:
    with Services(tell=lambda text: None) as services:
        assert {each.name for each in benchmarks(services, THOROUGH)} == set(NAMES)
        assert {each.name for each in benchmarks(services, QUICK)} == {n for n in NAMES if not n.endswith("native")}
        assert [each.name for each in benchmarks(services, QUICK, ["limit"])] == ["limit"]


def test_a_contender_is_not_started_when_the_time_is_up() -> None:
    def start(stage: Stage) -> AbstractContextManager[Running]:
        raise AssertionError("started")

    late = Pace(rounds=1, box=BOX, give_up_after=0.0)
    with Services(tell=lambda text: None) as services:
        with pytest.raises(BenchFailure, match="time for the whole run"):
            measure(Contender("peer", "", start), services, late)
        with pytest.raises(BenchFailure, match="time for the whole run"):
            list(measure_latency(services, (100,), late))


def test_each_contender_says_how_it_does_the_job() -> None:
    assert all("one transaction per message" in each.about for each in (CELERY, FASTSTREAM))
    assert all(each.about for each in (pipeline(), HANDWRITTEN, LIMIT))


def test_a_missing_library_is_said_in_a_sentence() -> None:
    with pytest.raises(
        NotAvailable, match=r"no_such_library not installed here; type: pip install 'plantbus\[bench\]'"
    ):
        Contender("peer", "", CELERY.start, ("no_such_library",)).require_libraries()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "postgresql://u:secret@h:port/d", "nothing"])
def test_another_database_than_postgresql_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://user:password@host") as refused:
        Services(postgresql=url, tell=print)

    assert "secret" not in str(refused.value)


def test_orders_have_the_size_that_is_claimed_for_them() -> None:
    assert all(650 <= len(body) <= 750 for body in (order(1), order(123_456), native_order(1)))


def test_numbers_stand_for_messages_of_their_own_about_as_many_orders_as_asked_for() -> None:
    orders = Orders(keys=3)
    publications = [orders.publication(number) for number in range(9)]

    assert len({each.properties["message_id"] for each in publications}) == 9
    assert len({each.headers["subject"] for each in publications}) == 3
    assert len({each.headers["subject"] for each in map(Orders().publication, range(9))}) == 9


def test_an_order_says_the_same_inside_and_out() -> None:
    for orders in (PLAIN, Orders(keys=3), Orders(site="P2"), Orders(first=1_000_001), Orders(operations=1)):
        for number in range(4):
            publication = orders.publication(number)
            document = json.loads(publication.body)
            assert publication.headers["subject"] == f"order:{document['order']['id']}"
            assert publication.headers["site"] == document["site"] == publication.routing_key.partition(".")[0]


def test_bus_and_peers_make_the_same_of_an_order(transformers: ModuleType) -> None:
    pytest.importorskip("pydantic")
    from bus.bench.order_model import Order, job_of

    for number in range(len(SITES)):
        peers = Order.model_validate_json(order(number))
        theirs = json.loads(job_of(peers).model_dump_json())
        ours = _made(transformers, "job", CANONICAL, order(number))
        assert _plain(ours) == _plain(theirs)
        assert peers.route == route_of(SITES[number])


def test_a_native_order_becomes_the_canonical_one(transformers: ModuleType) -> None:
    made = _made(transformers, "order_release", NATIVE, native_order(1))
    wanted = json.loads(order(1))

    assert _plain(made) == _plain({name: wanted[name] for name in made})
    assert set(wanted) - set(made) == {"storage", "costCenter"}


def test_the_bus_takes_each_payload(transformers: ModuleType) -> None:
    for orders in payload.SIZES.values():
        assert _made(transformers, "job", CANONICAL, orders.body(1))


@pytest.fixture
def transformers(tmp_path: Path) -> ModuleType:
    """The transformers of the benchmark's own project."""
    write_project(tmp_path)
    spec = spec_from_file_location("bench_transformers", tmp_path / "transformers" / "orders.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _made(transformers: ModuleType, name: str, type_name: str, body: bytes) -> Any:
    """What a transformer makes of a body; both are as their contracts say."""
    contracts: dict[str, Contract] = {each.type: each for each in transformers.CONTRACTS}
    opened = Opened(a_message(type=type_name, body=body), contracts[type_name].read(body))
    made = getattr(transformers, name)(opened, TransformContext(maps=ValueMaps(), key="k"))
    contracts[made.type].read(made.body)
    return json.loads(made.body)


def _plain(value: Any) -> Any:
    """Amounts compared as numbers: 120.000, "120.000" and 120 are one."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return value
