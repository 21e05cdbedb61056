"""A message that kills its worker: three of them, then it is dead, and nobody else pays for it."""

from __future__ import annotations

import signal

import pytest

from bus.model.delivery import MAX_DEATHS
from tests.faults.stage import PATIENCE, Stage, under_load
from tests.faults.survival import Survival
from tests.faults.workload import DEADLY
from tests.system.running_bus import a_step, until


def restart_a_worker_that_died(stage: Stage) -> int:
    """As a supervisor does; how many died."""
    worker = stage.bus.processes["worker"]
    if worker.poll() is None:
        return 0
    assert worker.returncode == -signal.SIGKILL, stage.bus.tail()
    del stage.bus.processes["worker"]
    stage.start("worker")
    return 1


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("target", ["answers", "hangs"])
def test_a_message_that_kills_its_worker_is_dead_after_three_and_its_neighbours_are_delivered(
    stage: Stage, survival: Survival, target: str
) -> None:
    """Where a target hangs, what goes there is in mid-call in each worker that dies."""
    deaths = 0

    def is_dead(order: str) -> bool:
        nonlocal deaths
        deaths += restart_a_worker_that_died(stage)
        if deaths == MAX_DEATHS - 1:
            stage.bus.keeper.release()
        return "DEAD" in stage.bus.states(order, "keeper")

    with under_load(stage, survival.seed) as load:
        if target == "hangs":
            stage.bus.keeper.hold()
        order = f"{load.truth.name}-deadly"
        for step in (0, DEADLY, 1):
            said = a_step(order, step)
            stage.bus.publish(said)
            load.truth.expect_step(said, step)
        assert until(lambda: is_dead(order), within=2 * PATIENCE), stage.bus.tail()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert deaths == MAX_DEATHS
    assert [row.cause for row in stage.bus.deliveries(order, "keeper") if row.state == "DEAD"] == ["worker.killed"]
