"""kill -9 of router, worker and relay in mid-day, each while it holds work: nothing lost, doubled or out of order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from bus.broker.address import read_addresses
from bus.broker.link import connect
from bus.model.delivery import State
from bus.model.message_class import MessageClass
from bus.model.topology import queues_of
from bus.store import tables as t
from tests.plant.books import BusBooks, PlantBooks
from tests.plant.day import FIRST_ORDER, SITES, Facts, until_over
from tests.plant.launch import wait_until
from tests.plant.reckoning import reckon
from tests.plant.stage import Stage, Wishes, stage
from tests.plant.watch import Watch
from tests.services import Vhost

ORDERS = 60
LATE = 20
PATIENCE = 120.0


@pytest.fixture
def set_up(store_url: str, vhost: Vhost, tmp_path: Path) -> Iterator[Stage]:
    wishes = Wishes(folder=tmp_path / "day", store=store_url, broker=vhost.amqp_url, management=vhost.management_url)
    with stage(wishes, say=lambda _: None) as ready:
        yield ready


@pytest.mark.timeout(400)
def test_killed_while_they_hold_work_they_lose_nothing_double_nothing_and_keep_the_order(set_up: Stage) -> None:
    erp = set_up.plant.erp
    locked = str(FIRST_ORDER)
    with Watch(set_up.ledger, trouble=set_up.bus.trouble) as watch:
        erp.command("publish-orders", count=ORDERS, sites=SITES, start=FIRST_ORDER, seed=2)
        erp.command("lock", order=locked)
        watch.until(lambda seen: to_erp(seen.totals) > 20, within=PATIENCE, what="postings flow")
        watch.until(lambda seen: seen.count(State.RETRYING), within=PATIENCE, what="a retry is due at the relay")

        with frozen(set_up, "worker-transaction", holding=lambda pid: in_mid_call(set_up, pid)):
            pass
        with frozen(set_up, "router-transaction", holding=lambda _: 1):
            erp.command("publish-orders", count=LATE, sites=SITES, start=FIRST_ORDER + ORDERS, seed=2)
            erp.wait_until_published(within=PATIENCE)
            assert unacknowledged(set_up) > 0
        with frozen(set_up, "relay", holding=lambda pid: leads(set_up, pid) and watch.fresh().count(State.RETRYING)):
            pass

        erp.command("unlock", order=locked)
        until_over(set_up.plant.systems, watch)

    assert sorted(set_up.bus.deaths()) == ["relay", "router-transaction", "worker-transaction"]
    plant, bus = PlantBooks.read(set_up.plant), BusBooks.read(set_up.ledger)
    checks = reckon(plant, bus, Facts(), dead=[], killed=True)
    assert [str(check) for check in checks if not check.holds] == []
    assert {"probe: found", "probe: absent"} & {attempt["outcome"] for attempt in bus.attempts}
    assert len(plant.jobs("mes-p100")) + len(plant.jobs("mes-p200")) == ORDERS + LATE
    everything_wrong_is_found(plant, bus)


def everything_wrong_is_found(plant: PlantBooks, bus: BusBooks) -> None:
    """The same reckoning on the same books, with one thing changed in them, names it."""

    def found(change: Callable[[dict[str, Any]], object]) -> set[str]:
        books: dict[str, Any] = deepcopy(dict(plant.books))
        change(books)
        return {c.subject for c in reckon(PlantBooks(books), bus, Facts(), dead=[], killed=True) if not c.holds}

    assert found(lambda _: None) == set()
    assert "no double booking" in found(lambda books: books["erp"]["documents"].append(books["erp"]["documents"][0]))
    assert "bus → erp" in found(lambda books: books["erp"]["documents"].pop())
    assert "bus → mes-p100" in found(lambda books: books["mes-p100"]["jobs"].pop())
    assert "mes-p200 → bus" in found(lambda books: books["mes-p200"]["published"].append(lost(books["mes-p200"])))
    assert found(lambda books: books["erp"]["documents"][0].update(number="1")) == {"document numbers"}
    assert found(lambda books: books["erp"].update(documents=backwards(books["erp"]))) == {"order at erp"}


def lost(book: dict[str, Any]) -> dict[str, Any]:
    return {**book["published"][0], "message_id": "lost"}


def backwards(book: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**document, "n": -document["n"]} for document in book["documents"]]


# --- killing ---------------------------------------------------------------------------------------------------------


@contextmanager
def frozen(set_up: Stage, child: str, *, holding: Callable[[int], object]) -> Iterator[None]:
    """Stop a process while it holds something (what it holds cannot change then), and kill it after the block."""
    pid = set_up.bus.children()[child]

    def stopped_with_work() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: state_of(pid) == "T", within=10, what=f"{child} is stopped")
        if holding(pid):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped_with_work, within=PATIENCE, what=f"{child} holds work")
    yield
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set_up.bus.children()[child] != pid, within=PATIENCE, what=f"{child} was started again")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def in_mid_call(set_up: Stage, pid: int) -> bool:
    """Whether this worker holds deliveries, at least one of them being sent to a system that remembers no keys."""
    d = t.delivery.c
    query = select(d.state, func.count().label("many")).where(d.worker.like(f"worker:%:{pid}:%")).group_by(d.state)
    held = {row["state"]: row["many"] for row in set_up.ledger.rows(query)}
    return bool(held.get(State.SENDING) and held.get(State.CLAIMED))


def leads(set_up: Stage, pid: int) -> bool:
    """Whether this relay is the one that works."""
    found = set_up.ledger.rows(select(t.lease.c.holder).where(t.lease.c.name == "relay"))
    return any(f":{pid}:" in row["holder"] for row in found)


def unacknowledged(set_up: Stage) -> int:
    """Messages the broker gave to the stopped router: confirmed to the sender, not stored, not waiting in the queue."""
    published = sum(system.status()["publications"].get("confirmed", 0) for system in set_up.plant.systems)
    stored = set_up.ledger.look().total("received")
    connection = connect(read_addresses(set_up.broker.url()), name="plant day, looking")
    (queue,) = queues_of(MessageClass.TRANSACTION)
    waiting = connection.channel().queue_declare(queue, passive=True).message_count
    connection.close()
    return int(published - stored - waiting)


def to_erp(totals: Any) -> int:
    routes = ("confirmations-to-erp", "consumptions-to-erp", "outputs-to-erp")
    return sum(amount for (measure, route), amount in totals.items() if measure == "delivered" and route in routes)
