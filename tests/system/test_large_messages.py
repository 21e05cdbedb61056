"""A backlog of messages near the size limit: it goes through, and no process needs the memory for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.client import Fact
from tests.system.running_bus import NATIVE, ROLES, RunningBus

MEGABYTE = 1_000_000
BACKLOG = 48


def a_large_step(order: str) -> Fact:
    """A native step of a megabyte; what it becomes is as large."""
    body = {"order": order, "step": 1, "to": {"keeper": True, "note": "x" * MEGABYTE}}
    return Fact(type=NATIVE, body=body, subject=f"order:{order}", message_id=f"large {order}")


def peak(process: int) -> int:
    """The most bytes that a running process ever had in memory."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.timeout(300)
def test_no_process_grows_with_a_backlog_of_large_messages(fresh_bus: RunningBus) -> None:
    bus = fresh_bus
    bus.wait_for_router()
    bus.stop("router", "worker")
    for number in range(BACKLOG):
        bus.publish(a_large_step(f"{number}"))

    bus.complete()
    bus.comes_to_rest(received=BACKLOG, within=240)

    assert len(bus.keeper.book) == BACKLOG
    peaks = {role: peak(bus.processes[role].pid) // MEGABYTE for role in ROLES}
    # They begin with less than 80; the native and canonical bodies of the backlog are 96 more.
    assert max(peaks.values()) < 150, peaks
    bus.proves_itself()
