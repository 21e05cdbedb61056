"""Moments: which process meets a fault at which crash point, and what it takes that it gets there with work in hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bus.crash_points import EXIT_CODE, VARIABLE, Point
from bus.store.sqlstore import SqlStore
from tests.faults.stage import PATIENCE, Hold, Stage, held_at, lasts
from tests.faults.workload import Publishing, Truth, workload
from tests.system.booking_target import Act
from tests.system.running_bus import LEASE, a_step, until

_ROLES = {"receive": "router", "transform": "worker", "send": "worker", "settle": "worker", "resume": "relay"}
_TURNS: Mapping[Point, int] = {"send.after_mark": 4, "send.after_call": 6, "transform.before_settle": 2}
"""Points that any workload passes so often: the seed says at which turn the fault comes."""

Fault = Callable[[Stage, Hold], None]
"""Harms something while a process is held at a point, lets the process go on, and heals what it harmed."""


def restart_broker(stage: Stage, hold: Hold) -> None:
    stage.node.kill()
    hold.release()
    stage.node.restart()


def cut_connections(stage: Stage, hold: Hold) -> None:
    """Those of every process to the broker."""
    stage.line.cut()
    hold.release()


def store_away(seconds: float) -> Fault:
    def harm(stage: Stage, hold: Hold) -> None:
        stage.store.go_away()
        try:
            hold.release()
            lasts(seconds)
        finally:
            stage.store.come_back()

    return harm


def fall_asleep(role: str) -> Fault:
    """Stops the process whole; another one has its place, and its lease and its connections are given up meanwhile."""

    def harm(stage: Stage, hold: Hold) -> None:
        sleeper = stage.bus.processes.pop(role)
        sleeper.send_signal(signal.SIGSTOP)
        try:
            hold.release()
            stage.start(role)
            lasts(2 * LEASE)
            stage.line.cut()  # as a broker does that heard no heartbeat; waiting for that would take minutes
            lasts(LEASE / 2)
        finally:
            sleeper.send_signal(signal.SIGCONT)
            stage.bus.processes[that_slept(role)] = sleeper

    return harm


def that_slept(role: str) -> str:
    """What a process goes by when another one has its place."""
    return f"{role}-that-slept"


ASLEEP = "asleep"
FAULTS: Mapping[str, Fault] = {
    "broker-restart": restart_broker,
    "store-away-0.4s": store_away(0.4),
    "store-away-30s": store_away(30),
    "connection-cut": cut_connections,
}


@dataclass(frozen=True)
class Struck:
    """A fault that came: what is true about the messages it met, and how much its victim held."""

    truth: Truth
    holding: int


def strike(stage: Stage, point: Point, fault: str, *, seed: int, folder: Path) -> Struck:
    """Let the fault (`kill`, ASLEEP, or one of FAULTS) meet the process that gets to the point; wait for rest."""
    if point.startswith("replay."):
        return _strike_operator(stage, point, fault, seed=seed, folder=folder)
    load = workload(stage.bus, seed=seed, name=stage.new_name())
    turn = 1 + load.random.randrange(_TURNS.get(point, 1))
    role = _ROLES[point.partition(".")[0]]
    with held_at(folder, point) as hold:
        armed = f"{point}:{turn}" if fault == "kill" else f"{point}:{turn}={hold.pipe}"
        victim = stage.replace(role, crash_at=armed)
        with _provoked(stage, point, load.truth.name) as during:
            publishing = Publishing(load, stage.bus.broker_url)
            during()
            if fault == "kill":
                assert until(lambda: victim.poll() is not None, within=PATIENCE), stage.bus.tail()
                assert victim.returncode == EXIT_CODE, stage.bus.tail()
                del stage.bus.processes[role]
                stage.start(role)
            else:
                assert until(hold.is_reached, within=PATIENCE), stage.bus.tail()
                harm = fall_asleep(role) if fault == ASLEEP else FAULTS[fault]
                harm(stage, hold)
    publishing.finish(within=PATIENCE)
    stage.comes_to_rest(load.truth)
    if fault != "kill":
        assert victim.poll() is None, f"{role} ended with {victim.returncode}\n{stage.bus.tail()}"
    return Struck(load.truth, held_by(stage, victim, point))


def held_by(stage: Stage, victim: subprocess.Popen[bytes], point: Point) -> int:
    """How many messages or deliveries the process said it held when it got there."""
    (told,) = stage.bus.told(f"crash point {point} reached", pid=victim.pid)
    holding = int(told["holding"])
    assert holding > 0
    return holding


# --- what it takes to get there --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _provoked(stage: Stage, point: Point, name: str) -> Iterator[Callable[[], None]]:
    """Arrange what leads to the point; yields what is to be done once messages flow. Heals it at the end."""
    bus = stage.bus
    if point == "send.after_trip":
        bus.keeper.stop()
        yield _nothing
        bus.keeper.start()
    elif point == "send.after_probe":
        bus.ledger.will(f"{name}-1", 0, Act.BOOK_THEN_CUT)
        yield _nothing
    elif point == "resume.after_due":
        bus.keeper.will(f"{name}-0", 0, 503)
        yield _nothing
    elif point in ("resume.after_lease", "resume.after_bury"):
        bus.keeper.hold()

        def kill_a_worker_in_mid_call() -> None:
            before = len(bus.keeper.posted)
            assert bus.keeper.wait_until(lambda: len(bus.keeper.posted) > before, within=PATIENCE)
            bus.kill("worker")

        yield kill_a_worker_in_mid_call
        bus.keeper.release()
        stage.start("worker")
    else:
        yield _nothing


def _nothing() -> None:
    return None


# --- an operator's command as the victim -----------------------------------------------------------------------------


def _strike_operator(stage: Stage, point: Point, fault: str, *, seed: int, folder: Path) -> Struck:
    """Somebody replays what is dead, or repeats what is finished, and the command meets the fault."""
    bus = stage.bus
    load = workload(bus, seed=seed, name=stage.new_name(), orders=3)
    order = f"{load.truth.name}-0"
    last = a_step(order, 900, "keeper")
    load.add(order, last, targets=("keeper",), step=900)
    bus.keeper.will(order, 900, *([422] if point != "replay.before_commit" else []))
    Publishing(load, bus.broker_url).finish(within=PATIENCE)
    state = "DELIVERED" if point == "replay.before_commit" else "DEAD"
    assert until(lambda: bus.states(order, "keeper")[-1:] == [state], within=PATIENCE), bus.tail()
    number = str(bus.deliveries(order, "keeper")[-1].id)
    if point == "replay.before_commit":
        load.truth.repeated["keeper", order, 900] += 1
    with held_at(folder, point) as hold:
        command = _replay(stage, number, armed=point if fault == "kill" else f"{point}={hold.pipe}")
        if fault != "kill":
            assert until(hold.is_reached, within=PATIENCE)
            FAULTS[fault](stage, hold)
    said, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == EXIT_CODE if fault == "kill" else command.returncode in (0, 1, 2), said
    assert "Traceback" not in said, said
    # Whoever ordered it looks whether it is done, and orders it again where it is not.
    if not _is_done(stage, int(number), repeats=point == "replay.before_commit"):
        again = _replay(stage, number)
        said, _ = again.communicate(timeout=PATIENCE)
        assert again.returncode == 0, said
    stage.comes_to_rest(load.truth)
    return Struck(load.truth, 1)


def _replay(stage: Stage, number: str, *, armed: str = "") -> subprocess.Popen[str]:
    bus = stage.bus
    environ = {
        "BUS_STORE": stage.store.url,
        "BUS_BROKER": stage.line.url(bus.broker_url),
        "BUS_ACTOR": "a.operator",
        VARIABLE: armed,
    }
    words = ("dead", "replay", number, "--repeat", "--reason", "looked into", "--project", str(bus.folder))
    return subprocess.Popen(
        [sys.executable, "-m", "bus", *words],
        env=os.environ | environ,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _is_done(stage: Stage, number: int, *, repeats: bool) -> bool:
    (delivery,) = SqlStore(stage.bus.database).deliveries([number])
    if not repeats:
        return delivery.state != "DEAD"
    acts = [row.act for row in stage.bus.journal(number)]
    return "repeat" in acts
