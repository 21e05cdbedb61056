"""Promise 3: the same (system, message id) twice plans once; with another body it is a conflict."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tests.system.running_bus import ROLES, RunningBus, a_step, until


def test_promise_3_the_same_fact_plans_once_through_restarts_of_everything(bus: RunningBus) -> None:
    fact = a_step("once", 1, "keeper", "ledger")
    other = replace(fact, body={"order": "once", "step": 2, "to": {"keeper": True}})

    bus.publish(fact, fact, fact)
    assert until(lambda: bus.receipts("once") == {"accepted": 1, "duplicate": 2})
    bus.stop("router")
    bus.publish(fact, other)
    bus.start("router")
    assert until(lambda: bus.receipts("once") == {"accepted": 1, "duplicate": 3, "conflict": 1})
    bus.kill(*ROLES)
    bus.publish(other, fact)
    bus.start(*ROLES)

    # What the killed router had not acknowledged came once more.
    assert until(lambda: bus.receipts("once") >= Counter(accepted=1, duplicate=4, conflict=2))
    bus.delivers("once", count=2)
    assert bus.receipts("once")["accepted"] == 1
    assert (bus.keeper.steps("once"), bus.ledger.steps("once")) == ([1], [1])  # the first one stands
    bus.proves_itself()


def test_promise_3_what_was_not_accepted_takes_no_id(bus: RunningBus) -> None:
    fact = a_step("first-invalid", 1)

    bus.publish(replace(fact, body=b"{not JSON"), fact)

    bus.delivers("first-invalid", count=1)
    assert bus.receipts("first-invalid") == {"invalid": 1, "accepted": 1}
    bus.proves_itself()
