"""A RabbitMQ cluster of three nodes: nodes killed, replaced, cut off from each other; two of them are enough."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.cluster import SILENCE, Cluster
from tests.faults.cluster_stage import ClusterStage, cluster_stage
from tests.faults.proxy import Proxy, Side
from tests.faults.stage import PATIENCE, QUEUES, MortalStore, lasts, postgresql_store, sqlite_store, under_load
from tests.faults.survival import Survival
from tests.faults.workload import Publishing, Truth, workload
from tests.services import PostgreSQL
from tests.system.running_bus import INBOUND, until

PAUSE = timedelta(seconds=1)
IMPATIENT = timedelta(seconds=2)


@pytest.fixture(scope="module")
def cluster(installed_rabbitmq: None, namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.every_fault])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MortalStore]:
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield stack.enter_context(sqlite_store(tmp_path))
        else:
            server: PostgreSQL = request.getfixturevalue("postgresql")
            yield stack.enter_context(postgresql_store(stack.enter_context(server.fresh_database())))


@pytest.fixture
def stage(cluster: Cluster, store: MortalStore, survival: Survival, tmp_path: Path) -> Iterator[ClusterStage]:
    with cluster_stage(tmp_path, cluster, store, seed=survival.seed) as made:
        yield made


# --- faults ----------------------------------------------------------------------------------------------------------


def kill_the_leader(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    leader = stage.leader()
    stage.cluster.kill(leader)
    stage.goes_on(truth)
    assert stage.leader() is not leader
    stage.cluster.boot(leader)


def cut_the_leader_off(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """The other nodes do not see it any more; its clients do."""
    leader = stage.leader()
    for other in stage.others(leader):
        stage.cluster.network.part(leader.place, other.place)
    assert until(lambda: not leader.greets(), within=PATIENCE)
    stage.goes_on(truth)
    stage.cluster.network.heal()
    stage.cluster.wait_for(leader)


def unplug_the_leader(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """Nobody sees it any more: what its clients say is lost, and nobody refuses them."""
    leader = stage.leader()
    stage.cluster.network.unplug(leader.place)
    stage.goes_on(truth)
    stage.cluster.network.plug(leader.place)
    stage.cluster.wait_for(leader)


def part_two(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """Two nodes do not see each other, and both see the third."""
    one, other = chance.sample(stage.nodes, 2)
    stage.cluster.network.part(one.place, other.place)
    lasts(3 * SILENCE)
    stage.cluster.network.heal()
    stage.cluster.wait_for(*stage.nodes)


def ring(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """Each node hears one neighbour only, and is heard by the other one only: no two of them are enough any more."""
    nodes = stage.nodes
    for at, node in enumerate(nodes):
        stage.cluster.network.lose(node.place, nodes[at - 1].place)
    lasts(3 * SILENCE)
    stage.cluster.network.heal()
    stage.cluster.wait_for(*nodes)


def flapping_link(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """The line of one node goes and comes, for less and for more time than the others wait for it."""
    node = stage.leader()
    for _ in range(5):
        stage.cluster.network.unplug(node.place)
        lasts(chance.uniform(0.2, 1.5 * SILENCE))
        stage.cluster.network.plug(node.place)
        lasts(chance.uniform(0.2, 0.5 * SILENCE))
    stage.cluster.wait_for(node)


def replace_the_leader(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    """A new node takes its place; then it and one of the old ones are enough."""
    leader = stage.leader()
    stage.cluster.replace(leader)
    assert all(leader in home.members for home in stage.cluster.queues(stage.vhost).values())
    another = chance.choice(stage.others(leader))
    stage.cluster.kill(another)
    stage.goes_on(truth)
    stage.cluster.boot(another)


def kill_all(stage: ClusterStage, truth: Truth, chance: random.Random) -> None:
    stage.cluster.kill(*stage.nodes)
    stage.cluster.boot(*stage.nodes)
    stage.goes_on(truth)


HARM: dict[str, Callable[[ClusterStage, Truth, random.Random], None]] = {
    "leader-killed": kill_the_leader,
    "leader-in-a-minority": cut_the_leader_off,
    "leader-unplugged": unplug_the_leader,
    "two-nodes-parted": part_two,
    "ring": ring,
    "link-flapping": flapping_link,
    "node-replaced": replace_the_leader,
    "all-killed": kill_all,
}
SELECTED = {"leader-killed"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "harm", [pytest.param(name, marks=() if name in SELECTED else pytest.mark.every_fault) for name in HARM]
)
def test_what_was_confirmed_survives_a_cluster(stage: ClusterStage, survival: Survival, harm: str) -> None:
    with under_load(stage, survival.seed, orders=30, pause=PAUSE) as load:
        HARM[harm](stage, load.truth, random.Random(survival.seed))
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()

    survival.tell([*stage.findings(load.truth), *stage.leftovers()], store=stage.kind, holding=load.holding)


@pytest.mark.timeout(900)
@pytest.mark.every_fault
def test_confirms_that_a_cluster_loses_while_leaders_move_cost_duplicates_only(
    stage: ClusterStage, survival: Survival
) -> None:
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name(), orders=30)
    with contextlib.ExitStack() as opened:
        urls = stage.bus.broker_url.split(";")
        lines = [opened.enter_context(Proxy((node.place.address, 5672), amqp=True)) for node in stage.nodes]
        through = ";".join(line.url(url) for line, url in zip(lines, urls, strict=True))
        publishing = Publishing(load, through, patience=IMPATIENT, pause=PAUSE)

        def lost() -> int:
            return sum(line.dropped[Side.SERVICE] for line in lines)

        for _ in range(3):
            leader, before = stage.leader(), lost()
            for line in lines:
                line.lose_confirms()
            assert until(lambda before=before: lost() > before, within=PATIENCE)  # type: ignore[misc]  # bound now
            stage.cluster.lead(stage.vhost, INBOUND, stage.others(leader)[0])
            for line in lines:
                line.lose_nothing()
        publishing.finish(within=PATIENCE)
    stage.comes_to_rest(load.truth)
    duplicates = stage.bus.receipts(load.truth.name)["duplicate"]

    survival.tell([*stage.findings(load.truth), *stage.leftovers()], store=stage.kind, holding=lost())
    assert duplicates > 0


@pytest.mark.every_fault
def test_every_queue_of_the_bus_is_kept_by_all_three_nodes(stage: ClusterStage) -> None:
    homes = stage.cluster.queues(stage.vhost)

    assert homes.keys() >= set(QUEUES)
    assert {home.members for home in homes.values()} == {frozenset(stage.cluster.nodes)}
