"""Promise 5: what may have happened is not repeated blindly; the targets' own books say how often it did."""

from __future__ import annotations

import signal
from datetime import timedelta
from pathlib import Path

from tests.faults.stage import held_at
from tests.system.booking_target import Act
from tests.system.running_bus import RunningBus, a_step, until

VISIBLE_AFTER = timedelta(seconds=3)


def test_promise_5_a_lost_answer_of_a_target_that_forgets_keys_is_asked_for_and_booked_once(
    bus: RunningBus,
) -> None:
    bus.ledger.will("there", 1, Act.BOOK_THEN_CUT)
    bus.ledger.will("not-there", 1, Act.CUT)

    bus.publish(*(a_step(order, step, "ledger") for step in (1, 2) for order in ("there", "not-there")))

    bus.ledger.wait_for_steps("there", [1, 2])
    bus.ledger.wait_for_steps("not-there", [1, 2])
    bus.delivers("there", "not-there", count=4)
    assert len(bus.ledger.posts("there", 1)) == 1
    assert len(bus.ledger.posts("not-there", 1)) == 2
    for order, found in (("there", "probe: found"), ("not-there", "probe: absent")):
        first = bus.deliveries(order)[0]
        assert [row.new for row in bus.journal(first.id) if row.old == "SENDING"][:1] == ["IN_DOUBT"]
        assert found in [row.outcome for row in bus.attempts(first.id)]
    # "Absent" counted only once the target had had the time to show what it booked.
    sent = [row for row in bus.attempts(bus.deliveries("not-there")[0].id) if row.outcome in ("doubt", "succeed")]
    assert sent[1].began_at - sent[0].ended_at >= VISIBLE_AFTER
    bus.proves_itself()


def test_promise_5_a_lost_answer_of_a_target_that_remembers_keys_is_retried_and_booked_once(
    bus: RunningBus,
) -> None:
    bus.keeper.will("cut", 1, Act.BOOK_THEN_CUT, Act.BOOK_THEN_CUT, 500)

    bus.publish(a_step("cut", 1), a_step("cut", 2))

    bus.keeper.wait_for_steps("cut", [1, 2])
    bus.delivers("cut", count=2)
    assert len({posted.key for posted in bus.keeper.posts("cut", 1)}) == 1
    assert len(bus.keeper.posts("cut", 1)) == 4
    assert "IN_DOUBT" not in [row.new for row in bus.journal(bus.deliveries("cut")[0].id)]
    bus.proves_itself()


def test_promise_5_what_nobody_can_ask_for_waits_for_a_person_and_other_keys_flow(bus: RunningBus) -> None:
    bus.archive.will("booked", 1, Act.BOOK_THEN_CUT)
    bus.archive.will("not-booked", 1, Act.CUT)

    bus.publish(*(a_step(order, step, "archive") for step in (1, 2) for order in ("booked", "not-booked", "others")))
    bus.archive.wait_for_steps("others", [1, 2])
    assert until(lambda: bus.states("booked") == bus.states("not-booked") == ["IN_DOUBT", "WAITING"])
    booked, absent = (str(bus.deliveries(order)[0].id) for order in ("booked", "not-booked"))
    number = bus.archive.number_of(bus.archive.posts("booked", 1)[0].key)
    assert bus.order("doubt", "happened", booked, "--document", number, "--reason", "seen there").returncode == 0
    assert bus.order("doubt", "absent", absent, "--reason", "not there").returncode == 0

    bus.archive.wait_for_steps("booked", [1, 2])
    bus.archive.wait_for_steps("not-booked", [1, 2])
    bus.delivers("booked", "not-booked", "others", count=6)
    assert len(bus.archive.posts("booked", 1)) == 1
    bus.proves_itself()


def test_promise_5_a_worker_killed_in_mid_send_leaves_a_doubt_that_is_asked_for_and_booked_once(
    bus: RunningBus,
) -> None:
    bus.ledger.will("hit-after", 1, Act.BOOK_THEN_HOLD)
    bus.ledger.will("hit-before", 1, Act.HOLD)
    bus.publish(a_step("hit-after", 1, "ledger"))
    bus.ledger.wait_for_post("hit-after", 1)
    bus.publish(a_step("hit-before", 1, "ledger"))
    bus.ledger.wait_for_post("hit-before", 1)
    assert bus.states("hit-after") == bus.states("hit-before") == ["SENDING"]

    bus.kill("worker")
    bus.publish(a_step("hit-after", 2, "ledger"), a_step("hit-before", 2, "ledger"))
    bus.start("worker")

    bus.ledger.wait_for_steps("hit-after", [1, 2])
    bus.ledger.wait_for_steps("hit-before", [1, 2])
    bus.delivers("hit-after", "hit-before", count=4)
    assert len(bus.ledger.posts("hit-after", 1)) == 1
    assert len(bus.ledger.posts("hit-before", 1)) == 2
    for order in ("hit-after", "hit-before"):
        doubts = [row for row in bus.journal(bus.deliveries(order)[0].id) if row.new == "IN_DOUBT"]
        assert [row.cause for row in doubts] == ["worker.killed-while-sending"]
    bus.proves_itself()


def test_promise_5_a_worker_that_was_stopped_and_wakes_sends_nothing_that_is_no_longer_its_own(
    patient_bus: RunningBus,
) -> None:
    bus = patient_bus
    bus.ledger.will("a", 0, Act.BOOK_THEN_HOLD)
    bus.kill("worker")
    bus.publish(*(a_step("a", step, "ledger") for step in range(5)))
    assert until(lambda: len(bus.states("a")) == 5)
    bus.start("worker")  # takes all five at once
    bus.ledger.wait_for_post("a", 0)
    assert until(lambda: bus.states("a") == ["SENDING"] + ["CLAIMED"] * 4)
    bus.send("worker", signal.SIGSTOP)
    sleeper = bus.processes.pop("worker")
    try:
        bus.start("worker")
        bus.ledger.wait_for_steps("a", range(5))  # the other one asked about the first, and sent the rest
        bus.ledger.release()
    finally:
        sleeper.send_signal(signal.SIGCONT)
        bus.processes["sleeper"] = sleeper
    assert until(lambda: bool(bus.told("delivery late")))  # the first one went well, and it goes on

    bus.publish(a_step("a", 5, "ledger"))
    bus.ledger.wait_for_steps("a", range(6))
    bus.comes_to_rest(received=6)
    assert [len(bus.ledger.posts("a", step)) for step in range(6)] == [1] * 6
    bus.proves_itself()


def test_promise_5_a_worker_that_wakes_gives_back_nothing_that_another_one_is_sending(
    patient_bus: RunningBus, tmp_path: Path
) -> None:
    bus = patient_bus
    bus.kill("worker")
    with held_at(tmp_path, "send.after_claim") as hold:
        bus.start("worker", crash_at=f"send.after_claim={hold.pipe}")
        bus.publish(a_step("a", 0, "ledger"))
        assert until(hold.is_reached), bus.tail()
        bus.send("worker", signal.SIGSTOP)
        bus.processes["sleeper"] = bus.processes.pop("worker")
        bus.ledger.will("a", 0, Act.HOLD_THEN_BOOK)
        bus.start("worker")
        bus.ledger.wait_for_post("a", 0)
        assert until(lambda: bus.states("a") == ["SENDING"])
    bus.send("sleeper", signal.SIGCONT)
    assert until(lambda: bool(bus.told("delivery late"))), bus.tail()
    still = bus.states("a")
    bus.publish(a_step("b", 0, "ledger"))
    bus.ledger.wait_for_steps("b", [0])  # whoever works on the queue looked at what there is
    bus.ledger.release()
    bus.ledger.wait_for_steps("a", [0])
    bus.comes_to_rest(received=2)

    assert still == ["SENDING"]
    assert len(bus.ledger.posts("a", 0)) == 1
    bus.proves_itself()
