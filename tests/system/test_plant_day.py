"""The plant day as a test: on both stores, on a broker that was named, interrupted, and with its processes killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from bus.broker.processes import NodeRecord
from tests.plant import marked
from tests.plant.bus_run import BusRun
from tests.plant.launch import ROOT, wait_until
from tests.services import Vhost

DAY = ("--orders", "30", "--pace", "0.1")
BOOT = 60.0
OURS = {"bus", "erp", "mes-p100", "mes-p200", "plant-feed"}


@pytest.mark.timeout(300)
def test_the_day_adds_up_on_sqlite_and_a_node_of_its_own_and_a_kept_one_can_be_asked_until_it_is_ended(
    installed_rabbitmq: None, tmp_path: Path
) -> None:
    folder, told, picture = tmp_path / "day", tmp_path / "told", tmp_path / "day.svg"
    with told.open("w") as output, started(folder, *DAY, "--picture", str(picture), output=output, KEEP="1") as day:
        wait_until(
            lambda: "Ctrl-C ends all" in told.read_text() or day.poll() is not None, within=200, what="the day is over"
        )
        assert "checks hold" in told.read_text(), told.read_text()
        assert "<svg" in picture.read_text()
        logged = [json.loads(line) for line in (folder / "bus.log").read_text().splitlines()]
        said_by = {str(line.get("process", "")).partition(":")[0] for line in logged}
        assert said_by >= {"supervisor", "router", "worker"}

        shell = f". {folder / 'env'} && bus dead list && bus status --verify"
        asked = subprocess.run(["sh", "-c", shell], cwd="/", capture_output=True, text=True, check=False)

        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert (folder / "env").stat().st_mode & 0o077 == 0
        day.send_signal(signal.SIGTERM)
        assert day.wait(BOOT) == 0
    assert what_runs(folder) == []


@pytest.mark.timeout(300)
def test_the_day_adds_up_on_postgresql_and_a_broker_that_was_named_where_it_deletes_what_it_made(
    vhost: Vhost, pg_database: str, tmp_path: Path
) -> None:
    done = play(tmp_path / "day", *DAY, "--store", pg_database, **on(vhost))

    assert done.returncode == 0, done.stdout + done.stderr
    assert what_runs(tmp_path / "day") == []
    with api(vhost) as management:
        assert queues_of(management, vhost) == []
        assert not OURS & {user["name"] for user in management.get("/api/users").json()}
        assert vhost.name in [each["name"] for each in management.get("/api/vhosts").json()]


def test_a_vhost_with_somebody_elses_queue_is_refused_and_left_alone(vhost: Vhost, tmp_path: Path) -> None:
    with api(vhost) as management:
        management.put(f"/api/queues/{vhost.name}/theirs", json={"durable": True}).raise_for_status()

        done = play(tmp_path / "day", **on(vhost))

        assert done.returncode == 2
        assert f"vhost '{vhost.name}' is not empty (1 queues" in done.stderr
        assert queues_of(management, vhost) == ["theirs"]


def test_a_broker_with_a_user_of_that_name_is_refused_and_keeps_it(vhost: Vhost, tmp_path: Path) -> None:
    with api(vhost) as management:
        management.put("/api/users/erp", json={"password": "theirs", "tags": ""}).raise_for_status()

        done = play(tmp_path / "day", **on(vhost))

        assert done.returncode == 2
        assert "users named erp already" in done.stderr
        assert management.get("/api/users/erp").is_success
        management.delete("/api/users/erp").raise_for_status()


def test_a_broker_without_its_management_api_is_refused_with_what_to_type(tmp_path: Path) -> None:
    done = play(tmp_path / "day", BROKER="amqp://nobody:nothing@127.0.0.1:1", MANAGEMENT="")

    assert done.returncode == 2
    assert "MANAGEMENT=http://host:15672" in done.stderr


def test_a_folder_that_no_day_made_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    done = play(tmp_path)

    assert done.returncode == 2
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.timeout(180)
def test_an_interrupted_day_ends_everything_it_started(installed_rabbitmq: None, tmp_path: Path) -> None:
    folder, told = tmp_path / "day", tmp_path / "told"
    with told.open("w") as output, started(folder, *DAY, output=output) as day:
        wait_until(lambda: "the shift starts" in told.read_text(), within=BOOT, what="the shift starts")
        assert len(what_runs(folder)) > 8

        day.send_signal(signal.SIGINT)

        assert day.wait(BOOT) == 130
    assert what_runs(folder) == []


@pytest.mark.timeout(180)
def test_a_day_whose_bus_dies_ends_at_once_with_exit_1(installed_rabbitmq: None, tmp_path: Path) -> None:
    folder, told = tmp_path / "day", tmp_path / "told"
    with told.open("w") as output, started(folder, *DAY, output=output) as day:
        wait_until(lambda: "the shift starts" in told.read_text(), within=BOOT, what="the shift starts")
        (bus_run,) = [pid for pid, command in marked.left_of(folder).items() if command.endswith("run -o json")]

        os.kill(bus_run, signal.SIGKILL)

        assert day.wait(BOOT) == 1
    assert "bus run ended with exit code -9" in told.read_text()
    assert what_runs(folder) == []


def test_a_process_of_the_bus_that_dies_again_and_again_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "bus.log"
    bus = BusRun(log, {})
    died = json.dumps({"event": "child died", "child": "router-event", "code": 1}) + "\n"

    log.write_text(died + "TypeError: no\n" + died)
    assert bus.trouble() == ""

    log.write_text(log.read_text() + died)
    assert "router-event died 3 times" in bus.trouble()
    assert "TypeError: no" in bus.trouble()


# --- how a day is played here ----------------------------------------------------------------------------------------


def play(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *words), cwd=ROOT, env=environment(variables), capture_output=True, text=True, check=False
    )


@contextmanager
def started(folder: Path, *words: str, output: object, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A day in the background; killed with everything it started where the test does not end it."""
    day = subprocess.Popen(
        command(folder, *words),
        cwd=ROOT,
        env=environment({"PYTHONUNBUFFERED": "1", **variables}),
        stdout=output,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield day
    finally:
        if day.poll() is None:
            day.kill()
            day.wait()
            marked.end_left(folder)


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "tests.plant.demo", "--folder", str(folder), *words]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "BROKER": "", "MANAGEMENT": "", "KEEP": "", **variables}


def on(vhost: Vhost) -> dict[str, str]:
    return {"BROKER": vhost.amqp_url, "MANAGEMENT": vhost.management_url}


@contextmanager
def api(vhost: Vhost) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=vhost.management_url, auth=(vhost.admin_user, vhost.admin_password), timeout=30
    ) as client:
        yield client


def queues_of(management: httpx.Client, vhost: Vhost) -> list[str]:
    queues = management.get(f"/api/queues/{quote(vhost.name, safe='')}").raise_for_status().json()
    return [queue["name"] for queue in queues]


def what_runs(folder: Path) -> list[str]:
    """Everything of the day that runs, its RabbitMQ node and port mapper too."""
    running = list(marked.left_of(folder).values())
    if record := NodeRecord.read(folder / "rabbitmq"):
        running += [f"rabbitmq {pid}" for pid in (record.node, record.epmd) if Path(f"/proc/{pid}").exists()]
    return running
