"""`bus bench` and `make bench` as typed: all run on real services and lose nothing; how fast it is, no test judges."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bus.bench.contenders import Course
from bus.bench.frame import Pace
from bus.bench.job import order, order_id
from bus.bench.ledger import ACCEPT, RECORD, Ledger
from bus.bench.orders import PLAIN
from bus.bench.pipeline import running_bus
from bus.bench.services import Services
from bus.store.engine import Database
from bus.store.follow import message_detail, trace
from bus.store.search import MessageQuery, list_messages
from bus.store.verify import verify
from tests.benchmarks.past import Pattern, fill
from tests.benchmarks.wanted import LONGEST
from tests.system.running_bus import until

PEERS = {"celery": "celery", "faststream": "uvloop", "handwritten": "pydantic"}
"""Contender → what it needs of the extra `bench`."""


@pytest.mark.timeout(360)  # its services and six contenders start one after another; it gives up by itself before
@pytest.mark.postgresql
def test_the_quick_benchmark_measures_everything_and_loses_nothing(tmp_path: Path, installed_rabbitmq: None) -> None:
    results = tmp_path / "results.json"

    done = _bench(tmp_path, "--quick", "--seconds", "0.5", "--rounds", "1", "--results", str(results))

    # A contender that lost an order, or did one twice, has an error in the place of a number, and the code is 1.
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value == json.loads(results.read_text())
    measured = {name for name, library in PEERS.items() if importlib.util.find_spec(library)}
    assert {name for name, rate in value["peers"].items() if rate is not None} == measured
    assert all(rate > 0 for rate in (*value["pipeline"].values(), value["limit"]))
    assert set(value["ratios"]) == {"best_peer", "handwritten", "limit"}
    assert 0 < value["latency_ms"]["p50"] <= value["latency_ms"]["p99"]
    assert {"rabbitmq", "postgresql", "python"} <= value["versions"].keys()
    for missing in PEERS.keys() - measured:
        assert f"{missing}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.postgresql
def test_a_database_that_cannot_be_reached_is_said_in_a_sentence(tmp_path: Path, installed_rabbitmq: None) -> None:
    nowhere = "postgresql://somebody:secret@127.0.0.1:1/nowhere"

    done = _bench(tmp_path, "--quick", "--seconds", "0.5", "--only", "pipeline.postgresql", "--postgresql", nowhere)

    assert done.returncode == 2
    assert json.loads(done.stdout)["pipeline"]["postgresql"] is None
    assert "pipeline.postgresql: PostgreSQL as --postgresql names it: " in done.stderr
    assert "secret" not in done.stdout + done.stderr


def _bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUS_")}
    return subprocess.run(
        [sys.executable, "-m", "bus", "bench", *words, "-o", "json"],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=330,
        check=False,
    )


def test_orders_that_are_missing_from_the_peers_records_are_named(pg_database: str) -> None:
    url = pg_database.replace("postgresql+psycopg://", "postgresql://", 1)
    with closing(Ledger(url)) as ledger, psycopg.connect(url, autocommit=True) as connection:
        ledger.create()
        began = ledger.clock()
        for number in ("1", "2"):
            connection.execute(ACCEPT, (number, "P1", f"order:{number}", b"{}", "orders-to-mes-p1"))
            connection.execute(RECORD, (number, "transformed", b"{}"))
        connection.execute(RECORD, ("1", "sent", None))

        assert ledger.ends() == 1
        assert began <= ledger.last_end() <= ledger.clock()
        assert ledger.complaint(2) == "of 2 orders 1 sent"
        connection.execute(RECORD, ("2", "sent", None))
        assert ledger.complaint(2) == ""


def test_a_benchmark_that_is_ended_leaves_nothing_behind(tmp_path: Path, installed_rabbitmq: None) -> None:
    words = [sys.executable, "-m", "bus", "bench", "--quick", "--only", "limit"]
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert until(lambda: any(tmp_path.glob("plantbus-bench-*/stage-0/send.log")))
        process.terminate()

        _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert list(tmp_path.rglob("*")) == [], said


@pytest.mark.postgresql
def test_parts_run_alone_and_tell_what_they_found(tmp_path: Path, installed_rabbitmq: None) -> None:
    results = tmp_path / "results.json"
    words = ("lanes", "--quick", "--messages", "20", "--results", str(results))

    done = subprocess.run(_parts(*words), capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value == json.loads(results.read_text())
    medians = {finding["name"]: finding["median"] for finding in value["findings"]}
    assert {"lanes.1", "lanes.20", "lanes.100"} == medians.keys()
    assert min(medians.values()) > 0
    assert {"rabbitmq", "postgresql"} <= value["versions"].keys()


@pytest.mark.postgresql
def test_parts_that_are_ended_tell_what_they_found_and_leave_nothing_behind(
    open_folder: Path, installed_rabbitmq: None
) -> None:
    environ = os.environ | {"TMPDIR": str(open_folder)}
    words = _parts("contract", "--quick")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environ, **pipes) as process:
        started = until(lambda: any(open_folder.glob("plantbus-bench-*/stage-0/*.log")))
        process.send_signal(signal.SIGINT)

        shown, said = process.communicate(timeout=100)
    assert started, said
    assert process.returncode == 128 + signal.SIGINT, said
    assert "contract.20kB" in {finding["name"] for finding in json.loads(shown)["findings"]}
    assert list(open_folder.rglob("*")) == [], said


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder into which another user may look: root's PostgreSQL runs as one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["speed"], "unknown: speed; known: comparison, sizes"),
        (["--rounds", "0"], "argument --rounds: '0': a whole number above 0 is expected"),
        (["--minutes", "soon"], "argument --minutes: 'soon': a number above 0 is expected"),
        (["--results", "/nowhere/results.json"], "/nowhere/results.json cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(words: list[str], said: str) -> None:
    done = subprocess.run(_parts(*words), capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def _parts(*words: str) -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks", *words, "-o", "json"]


@pytest.mark.parametrize("sqlite", [True, pytest.param(False, marks=pytest.mark.postgresql)])
def test_a_past_that_was_made_is_what_the_bus_would_have_left(sqlite: bool, installed_rabbitmq: None) -> None:
    with Services(tell=lambda text: None) as services:
        with services.stage() as stage, running_bus(stage, PLAIN, sqlite=sqlite, searchable=("order.id",)) as bus:
            with closing(Course(stage, bus, Pace(rounds=1, box=LONGEST))) as course:
                course.round(1)
            pattern = Pattern.of(bus.database, order_id(0))

        def fill_it(database: Database) -> None:
            fill(database, pattern, first=1_000, count=30)

        with services.stage() as stage, running_bus(stage, PLAIN, sqlite=sqlite, fill=fill_it) as bus:
            assert list(verify(bus.database)) == []
            with closing(Course(stage, bus, Pace(rounds=1, box=LONGEST))) as course:
                course.round(5)
                course.require_complete()
            assert list(verify(bus.database)) == []
            known = MessageQuery(where=(("order.id", order_id(1_007)),))
            (line,) = list_messages(bus.database, known, limit=20).items
            assert trace(bus.database, line.number).messages == 1
            assert json.loads(message_detail(bus.database, line.number).message.body) == json.loads(
                order(1_007, site="P1")
            )
