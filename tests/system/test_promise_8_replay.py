"""Promise 8: replay is deliberate: who and why are recorded, and what it does to key and place is known."""

from __future__ import annotations

from bus.model.message import delivery_key
from bus.testing import a_message
from tests.system.running_bus import RunningBus, a_step, until


def test_promise_8_continuing_a_dead_delivery_keeps_its_key_and_its_place(bus: RunningBus) -> None:
    bus.keeper.will("dead-one", 2, 422)
    bus.publish(*(a_step("dead-one", step) for step in range(1, 5)))
    assert until(lambda: bus.states("dead-one") == ["DELIVERED", "DEAD", "WAITING", "WAITING"])
    dead = bus.deliveries("dead-one")[1]

    assert bus.order("dead", "replay", str(dead.id)).returncode == 2  # without a reason nothing is done
    assert bus.states("dead-one")[1] == "DEAD"
    assert bus.order("dead", "replay", str(dead.id), "--reason", "material was created").returncode == 0

    bus.keeper.wait_for_steps("dead-one", [1, 2, 3, 4])
    bus.delivers("dead-one", count=4)
    after = bus.deliveries("dead-one")[1]
    assert (after.id, after.place, after.key, after.replay) == (dead.id, dead.place, dead.key, 0)
    assert {posted.key for posted in bus.keeper.posts("dead-one", 2)} == {dead.key}
    (deed,) = [row for row in bus.journal(dead.id) if row.act == "replay"]
    assert (deed.actor, deed.reason) == ("person:a.operator", "material was created")
    bus.proves_itself()


def test_promise_8_repeating_a_finished_delivery_is_a_new_one_with_its_number_in_the_key(
    bus: RunningBus,
) -> None:
    bus.publish(a_step("done-one", 1), a_step("done-one", 2))
    bus.delivers("done-one", count=2)
    done = bus.deliveries("done-one")[0]

    assert bus.order("dead", "replay", str(done.id), "--reason", "sheet was lost").returncode == 1
    assert bus.keeper.steps("done-one") == [1, 2]  # not by accident
    assert bus.order("dead", "replay", str(done.id), "--repeat", "--reason", "sheet was lost").returncode == 0

    bus.keeper.wait_for_steps("done-one", [1, 2, 1])
    bus.delivers("done-one", count=3)
    repeated = bus.deliveries("done-one")[2]
    assert (repeated.message, repeated.replay) == (done.message, 1)
    assert repeated.place > bus.deliveries("done-one")[1].place
    message = a_message(id="test.step.v1 done-one-1", system="mes")
    assert [row.key for row in (done, repeated)] == [
        delivery_key(message, route="steps-to-keeper", replay=number) for number in (0, 1)
    ]
    (deed,) = [row for row in bus.journal(done.id) if row.act == "repeat"]
    assert (deed.actor, deed.reason) == ("person:a.operator", "sheet was lost")
    bus.proves_itself()
