"""The processes of `bus run`: each restarted by itself, all stopped together, none left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from bus.workers.supervisor import restart_delay
from tests.services import Vhost
from tests.system.workbench import QUEUE, Eye

PATIENCE = 60.0
PROGRAM = [sys.executable, "-m", "tests.system.supervised"]


class Running:
    """A real process whose lines a test waits for."""

    def __init__(self, argv: Sequence[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            argv, bufsize=0, stdout=subprocess.PIPE, env=os.environ | environment
        )  # unbuffered: select must know of every line
        self.pids: dict[str, int] = {}
        self.events: list[dict[str, Any]] = []

    def wait_for(self, event: str, **fields: object) -> dict[str, Any]:
        """The next event of that name with these fields."""
        assert self.process.stdout is not None
        while select.select([self.process.stdout], [], [], PATIENCE)[0]:
            line = self.process.stdout.readline()
            assert line, f"ended before {event}: {self.events}"
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event and fields.items() <= self.events[-1].items():
                return self.events[-1]
        raise AssertionError(f"no {event}: {self.events}")

    def is_up(self, *names: str) -> dict[str, int]:
        """Wait until these children serve; name → pid."""
        for name in names:
            self.pids[name] = self.wait_for("child started", child=name)["pid"]
        up = {event["pid"] for event in self.events if event["event"] == "up"}
        for _ in set(self.pids.values()) - up:
            self.wait_for("up")
        return dict(self.pids)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(argv: Sequence[str], **environment: str) -> Iterator[Running]:
    one = Running(argv, **environment)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        assert one.process.stdout is not None
        one.process.stdout.close()


def supervising(*children: str, drain_within: float = 10) -> contextlib.AbstractContextManager[Running]:
    return running([*PROGRAM, "supervisor", str(drain_within), *children])


def has_ended(pid: int) -> bool:
    """Wait until a process that is not our child is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE)[0])
    finally:
        os.close(descriptor)


# --- the supervisor --------------------------------------------------------------------------------------------------


def test_a_killed_child_is_restarted_while_the_others_keep_running() -> None:
    with supervising("router=obedient", "worker=obedient", "relay=obedient") as bus:
        before = bus.is_up("router", "worker", "relay")

        os.kill(before["worker"], signal.SIGKILL)
        died = bus.wait_for("child died", child="worker")
        restarted = bus.wait_for("child started", child="worker")["pid"]
        bus.wait_for("up", pid=restarted)
        bus.signal(signal.SIGTERM)

        stopped = {bus.wait_for("child stopped")["child"]: bus.events[-1]["pid"] for _ in before}
        assert died["code"] == -signal.SIGKILL
        assert stopped == before | {"worker": restarted}
        assert bus.exit_code() == 0


def test_the_master_of_dramatiq_stops_all_when_one_dies() -> None:
    command = [sys.executable, "-m", "dramatiq", "-p", "2", "-t", "1", "tests.system.supervised"]
    master = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert master.stderr is not None
    ready: list[int] = []
    while len(ready) < 2:
        line = master.stderr.readline()
        assert line
        if "ready for action" in line:
            ready.append(int(line.split("[PID ")[1].split("]")[0]))

    os.kill(ready[0], signal.SIGKILL)

    assert has_ended(ready[1])
    master.communicate(timeout=PATIENCE)
    assert master.returncode != 0


def test_a_child_that_dies_again_and_again_is_restarted_ever_more_slowly() -> None:
    with supervising("relay=hopeless", "router=obedient") as bus:
        delays = [bus.wait_for("child died", child="relay")["restart_in"] for _ in range(3)]

        assert delays == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_the_delay_before_a_restart_doubles_up_to_a_limit(jitter: float) -> None:
    delays = [restart_delay(deaths, jitter=jitter) for deaths in range(1, 100)]

    assert delays == sorted(delays)
    assert delays[0] <= timedelta(seconds=0.5)
    assert timedelta(seconds=15) <= delays[-1] <= timedelta(seconds=30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_lets_the_children_drain(number: signal.Signals) -> None:
    with supervising("router=obedient", "worker=obedient") as bus:
        pids = bus.is_up("router", "worker")

        bus.signal(number)

        assert bus.exit_code() == 0
        assert bus.process.stdout is not None
        events = [json.loads(line) for line in bus.process.stdout]
        assert {event["pid"] for event in events if event["event"] == "drained"} == set(pids.values())
        assert [event["code"] for event in events if event["event"] == "child stopped"] == [0, 0]


def test_a_child_that_does_not_drain_is_killed_in_time() -> None:
    with supervising("router=obedient", "worker=stubborn", drain_within=0.5) as bus:
        pids = bus.is_up("router", "worker")

        bus.signal(signal.SIGTERM)

        assert bus.wait_for("child killed", child="worker")["pid"] == pids["worker"]
        assert bus.exit_code() == 1
        assert has_ended(pids["worker"])


def test_a_second_stop_signal_does_not_wait() -> None:
    with supervising("router=obedient", "worker=stubborn", drain_within=1000) as bus:
        bus.is_up("router", "worker")

        bus.signal(signal.SIGTERM)
        bus.wait_for("child stopped", child="router")
        bus.signal(signal.SIGTERM)

        assert bus.wait_for("child killed")["child"] == "worker"
        assert bus.exit_code() == 1


def test_children_end_with_a_supervisor_that_was_killed() -> None:
    with supervising("router=obedient", "worker=obedient") as bus:
        pids = bus.is_up("router", "worker")

        bus.signal(signal.SIGKILL)

        bus.wait_for("drained")
        bus.wait_for("drained")
        assert all(has_ended(pid) for pid in pids.values())


def test_a_process_that_does_not_stop_ends_all_the_same() -> None:
    with running([*PROGRAM, "hanging"]) as process:
        process.wait_for("up")

        process.signal(signal.SIGTERM)

        assert process.exit_code() == -signal.SIGALRM


def test_a_stop_signal_that_reaches_another_thread_is_heard() -> None:
    with running([*PROGRAM, "threaded", "obedient"]) as process:
        process.wait_for("up")

        process.signal(signal.SIGTERM)

        process.wait_for("drained")
        assert process.exit_code() == 0


def test_a_supervisor_hears_a_stop_signal_that_reaches_another_thread() -> None:
    with running([*PROGRAM, "threaded", "supervisor", "0.1", "a=obedient"]) as process:
        process.is_up("a")

        process.signal(signal.SIGTERM)

        process.wait_for("child killed", child="a")  # it inherits that its main thread hears nothing
        assert process.exit_code() == 1


# --- a worker's own stop ---------------------------------------------------------------------------------------------


@pytest.fixture
def eye(vhost: Vhost) -> Iterator[Eye]:
    eye = Eye(vhost.amqp_url)
    eye.declare(QUEUE)
    yield eye
    eye.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_finishes_what_it_runs_and_begins_nothing_new(vhost: Vhost, eye: Eye, number: signal.Signals) -> None:
    eye.hint(QUEUE, 3)
    with running([*PROGRAM, "worker", "1", "10"], BROKER=vhost.amqp_url) as worker:
        worker.wait_for("work begins")

        worker.signal(number)

        worker.wait_for("work ends")
        assert worker.wait_for("worker stopped")["unfinished"] == 0
        assert worker.exit_code() == 0
    assert eye.holds(QUEUE, 2)


def test_a_worker_whose_work_hangs_gives_up_in_time_and_its_hint_comes_again(vhost: Vhost, eye: Eye) -> None:
    eye.hint(QUEUE)
    with running([*PROGRAM, "worker", "1000", "0.5"], BROKER=vhost.amqp_url) as worker:
        worker.wait_for("work begins")

        worker.signal(signal.SIGTERM)

        assert worker.wait_for("worker stopped")["unfinished"] == 1
        assert worker.exit_code() == 1
    assert eye.holds(QUEUE, 1)
