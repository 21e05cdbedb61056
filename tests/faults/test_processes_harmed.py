"""Router, worker and relay: killed at random, put to sleep longer than leases and heartbeats, asked to end."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from bus.crash_points import EXIT_CODE, Point
from bus.pipeline.receive import MAX_OPENINGS
from bus.store import tables as t
from tests.faults.moments import ASLEEP, held_by, strike, that_slept
from tests.faults.stage import HEARTBEAT, PATIENCE, Stage, held_at, lasts, under_load
from tests.faults.survival import Survival
from tests.faults.workload import Publishing, workload
from tests.system.running_bus import LEASE, ROLES, until


def kills(seed: int, *, count: int) -> Iterator[tuple[float, str]]:
    """When (seconds after the one before) which process is killed."""
    chance = random.Random(seed)
    return ((chance.uniform(1, 5), chance.choice(ROLES)) for _ in range(count))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [3, pytest.param(25, marks=pytest.mark.every_fault)])
def test_random_kills_every_one_to_five_seconds(stage: Stage, survival: Survival, count: int) -> None:
    with under_load(stage, survival.seed, orders=6 * count, steps=6) as load:
        for pause, role in kills(survival.seed, count=count):
            lasts(pause)
            stage.bus.kill(role)
            stage.start(role)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


@pytest.mark.timeout(600)
@pytest.mark.every_fault
def test_random_kills_among_processes_that_stand_by_for_each_other(stage: Stage, survival: Survival) -> None:
    """Two of each kind, any of the six is killed."""
    role_of = {name: role for role in ROLES for name in (role, f"second-{role}")}
    seconds = sorted(role_of.keys() - set(ROLES))
    for name in seconds:
        stage.start_as(name, role_of[name])
    chance = random.Random(survival.seed)
    with under_load(stage, survival.seed, orders=90) as load:
        for pause, _ in kills(survival.seed, count=15):
            lasts(pause)
            victim = chance.choice(sorted(role_of))
            stage.bus.kill(victim)
            stage.start_as(victim, role_of[victim])
    findings = stage.findings(load.truth)
    stage.bus.stop(*seconds)

    survival.tell(findings, store=stage.kind, holding=load.holding)


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_router_that_dies_again_and_again_before_its_commit_blames_no_message(
    stage: Stage, survival: Survival
) -> None:
    stage.bus.stop("router")
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    Publishing(load, stage.bus.broker_url).finish(within=PATIENCE)
    for _ in range(MAX_OPENINGS + 2):
        stage.start("router", crash_at="receive.before_commit")
        router = stage.bus.processes.pop("router")
        assert router.wait(PATIENCE) == EXIT_CODE, stage.bus.tail()
    stage.start("router")
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.truth.received)


def claimed_by(stage: Stage, pid: int) -> int:
    """Deliveries that the store says a process holds."""
    with stage.bus.database.read() as connection:
        workers = connection.execute(select(t.delivery.c.worker).where(t.delivery.c.worker.contains(f":{pid}:")))
        return len(workers.all())


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("role", ROLES)
def test_a_process_that_is_asked_to_end_under_load_drains(stage: Stage, survival: Survival, role: str) -> None:
    with under_load(stage, survival.seed) as load:
        process = stage.bus.processes[role]
        stage.bus.stop(role)
        assert process.returncode == 0, stage.bus.tail()
        assert claimed_by(stage, process.pid) == 0
        with stage.bus.database.read() as connection:
            leases = connection.execute(select(t.lease.c.holder)).scalars().all()
        assert not [holder for holder in leases if f":{process.pid}:" in holder]
        stage.start(role)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


@pytest.mark.timeout(600)
@pytest.mark.every_fault
def test_restarts_while_a_target_hangs_are_held_against_no_delivery(stage: Stage, survival: Survival) -> None:
    """A worker that is asked to end gives back what it cannot finish: nothing is dead because of its target's calls."""
    bus = stage.bus
    with under_load(stage, survival.seed) as load:
        bus.keeper.hold()
        for _ in range(3):
            posts = len(bus.keeper.posted)
            assert bus.keeper.wait_until(lambda posts=posts: len(bus.keeper.posted) > posts, within=PATIENCE)  # type: ignore[misc]  # bound now, called now
            worker = bus.processes.pop("worker")
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE)
            stage.start("worker")
        bus.keeper.release()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


@contextmanager
def stopped(stage: Stage, role: str) -> Iterator[None]:
    """The process sleeps while the block runs and another one has its place; then both go on."""
    sleeper = stage.bus.processes.pop(role)
    sleeper.send_signal(signal.SIGSTOP)
    try:
        stage.start(role)
        yield
    finally:
        sleeper.send_signal(signal.SIGCONT)
        stage.bus.processes[that_slept(role)] = sleeper


@pytest.mark.timeout(500)
@pytest.mark.every_fault
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("beyond", ["lease", "heartbeat"])
def test_a_process_that_sleeps_longer_than_others_wait_for_it(
    stage: Stage, survival: Survival, role: str, beyond: str
) -> None:
    """Nothing of it is in the window of promise 5: a worker is put to sleep when each of its calls was read."""
    bus = stage.bus
    with under_load(stage, survival.seed) as load:
        if role == "worker":
            in_mid_calls(stage)
        with stopped(stage, role):
            for target in (bus.keeper, bus.ledger, bus.archive):
                target.release()  # what was held is booked, and the answer waits for the sleeper
            lasts(2.5 * LEASE if beyond == "lease" else 3.5 * HEARTBEAT)
    bus.stop(that_slept(role))

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


def in_mid_calls(stage: Stage) -> None:
    """Return when every call is on its way and none goes on: no other one begins."""
    targets = (stage.bus.keeper, stage.bus.ledger, stage.bus.archive)
    for target in targets:
        target.hold()

    def posts() -> int:
        return sum(len(target.posted) for target in targets)

    seen = [-1, posts()]

    def still() -> bool:
        seen.append(posts())
        return len(seen) > 15 and seen[-15] == seen[-1] > 0  # looked at ten times a second

    assert until(still, within=PATIENCE)


SLEEPS: Sequence[tuple[str, Point]] = (
    ("router", "receive.after_open"),
    ("router", "receive.after_commit"),
    ("worker", "transform.after_claim"),
    ("worker", "transform.before_settle"),
    ("worker", "send.after_claim"),
    ("worker", "send.after_call"),
    ("worker", "send.before_settle"),
    ("worker", "send.after_probe"),
    ("worker", "settle.before_commit"),
    ("relay", "resume.after_due"),
    ("relay", "resume.after_lease"),
    ("relay", "resume.after_bury"),
)
"""All that may be slept at: `send.after_mark` is the window of promise 5."""


@pytest.mark.timeout(500)
@pytest.mark.every_fault
@pytest.mark.parametrize(("role", "point"), SLEEPS)
def test_a_process_that_wakes_with_work_that_another_one_has_by_then(
    stage: Stage, pipes: Path, survival: Survival, role: str, point: Point
) -> None:
    struck = strike(stage, point, ASLEEP, seed=survival.seed, folder=pipes)
    stage.bus.stop(that_slept(role))

    survival.tell(stage.findings(struck.truth), store=stage.kind, holding=struck.holding)


@pytest.mark.timeout(500)
@pytest.mark.every_fault
@pytest.mark.parametrize(("role", "point"), [("router", "receive.before_commit"), ("worker", "settle.before_commit")])
@pytest.mark.parametrize("lasting_stage", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_process_asleep_in_the_middle_of_a_transaction_holds_up_nobody_for_ever(
    stage: Stage, pipes: Path, survival: Survival, role: str, point: Point
) -> None:
    """PostgreSQL gives up its transaction, and the others have done everything before it wakes."""
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    with held_at(pipes, point) as hold:
        victim = stage.replace(role, crash_at=f"{point}={hold.pipe}")
        publishing = Publishing(load, stage.bus.broker_url)
        assert until(hold.is_reached, within=PATIENCE), stage.bus.tail()
        with stopped(stage, role):
            stage.line.cut()  # as a broker does that heard no heartbeat
            publishing.finish(within=PATIENCE)
            stage.comes_to_rest(load.truth)
            meanwhile = stage.findings(load.truth)
    stage.bus.stop(that_slept(role))

    survival.tell([*meanwhile, *stage.findings(load.truth)], store=stage.kind, holding=held_by(stage, victim, point))
