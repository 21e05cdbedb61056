"""`bus bench` as typed: every contender runs on real services and loses nothing; how fast it is, no test judges."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from bus.bench.ledger import ACCEPT, RECORD, Ledger
from tests.system.running_bus import until

PEERS = {"celery": "celery", "faststream": "faststream", "handwritten": "pydantic"}
"""Contender → what it needs of the extra `bench`."""


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
        timeout=110,
        check=False,
    )


def test_orders_that_are_missing_from_the_peers_records_are_named(pg_database: str) -> None:
    url = pg_database.replace("postgresql+psycopg://", "postgresql://", 1)
    with closing(Ledger(url)) as ledger, psycopg.connect(url, autocommit=True) as connection:
        ledger.create()
        for number in ("1", "2"):
            connection.execute(ACCEPT, (number, "P1", f"order:{number}", b"{}", "orders-to-mes-p1"))
            connection.execute(RECORD, (number, "transformed", b"{}"))
        connection.execute(RECORD, ("1", "sent", None))

        assert ledger.ends() == 1
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
