"""Every crash point meets every fault: its process is killed there, or held while broker, store or connection go."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.crash_points import POINTS, Point
from tests.faults.moments import FAULTS, strike
from tests.faults.stage import Stage
from tests.faults.survival import Survival

SELECTED = {("receive.after_commit", "kill"), ("send.after_call", "kill")}
"""Those of `make test`; `make faults` has them all."""

CASES = [
    pytest.param(
        point, fault, marks=() if (point, fault) in SELECTED else pytest.mark.every_fault, id=f"{point}-{fault}"
    )
    for point in POINTS
    for fault in ("kill", *FAULTS)
]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("point", "fault"), CASES)
def test_nothing_is_lost_doubled_or_out_of_order_at(
    stage: Stage, pipes: Path, survival: Survival, point: Point, fault: str
) -> None:
    struck = strike(stage, point, fault, seed=survival.seed, folder=pipes)

    survival.tell(stage.findings(struck.truth), store=stage.kind, holding=struck.holding)
