"""What becomes of a hint whose work failed."""

from __future__ import annotations

import pytest
from dramatiq.brokers.stub import StubBroker

from bus.errors import StoreConflict, StoreRefuses, StoreUnavailable
from bus.testing import RecordedTelemetry
from bus.workers.actors import declare_actors


@pytest.mark.parametrize(
    ("error", "ends"),
    [(StoreUnavailable("away"), False), (StoreConflict("rolled back"), False), (StoreRefuses("no right"), True)],
)
def test_a_worker_ends_only_where_the_store_refuses_for_good(error: Exception, ends: bool) -> None:
    broker, telemetry = StubBroker(), RecordedTelemetry()
    asked: list[str] = []

    def work() -> None:
        raise error

    declare_actors(broker, {"send.erp": work}, telemetry=telemetry, give_up=lambda: asked.append("to end"))
    broker.get_actor("send.erp")(1)

    assert asked == (["to end"] if ends else [])
    assert [name for name, _ in telemetry.events] == ["hint spent"]
