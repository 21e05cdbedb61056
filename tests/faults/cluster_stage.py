"""The bus on a cluster of three nodes, in a vhost and with a store of its own."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import Cluster, Node
from tests.faults.stage import PATIENCE, AnyStage, MortalStore
from tests.faults.workload import Truth
from tests.system.running_bus import INBOUND, ROLES, a_step, running_bus, until


@dataclass(kw_only=True)
class ClusterStage(AnyStage):
    """Publishers and processes know all three nodes and try them in one order, which the seed says."""

    cluster: Cluster
    vhost: str
    nodes: Sequence[Node]
    """In that order. The first one leads every queue at the beginning."""
    _signs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def leader(self, queue: str = INBOUND) -> Node:
        """Who leads the queue now, once somebody does."""
        found: list[Node] = []

        def is_led() -> bool:
            if home := self.cluster.queues(self.vhost).get(queue):
                found.append(home.leader)
            return bool(found)

        assert until(is_led, within=PATIENCE)
        return found[0]

    def others(self, node: Node) -> list[Node]:
        return [each for each in self.nodes if each is not node]

    def goes_on(self, truth: Truth) -> None:
        """Return when a message that is published now was delivered."""
        sign = a_step(f"{truth.name}-sign{next(self._signs)}", 0)
        self.bus.publish(sign)
        truth.expect_last(sign)
        order = sign.subject.removeprefix("order:")
        assert until(lambda: self.bus.states(order, "keeper") == ["DELIVERED"], within=PATIENCE), self.bus.tail()


@contextlib.contextmanager
def cluster_stage(folder: Path, cluster: Cluster, store: MortalStore, *, seed: int) -> Iterator[ClusterStage]:
    """The bus on this store and in a fresh vhost, declared through the node that is tried first, and started."""
    cluster.complete()
    nodes = random.Random(seed).sample(cluster.nodes, len(cluster.nodes))
    with (
        cluster.fresh_vhost() as vhost,
        running_bus(folder / "project", store.direct_url, cluster.url(vhost, nodes), roles=()) as bus,
    ):
        cluster.keep_definitions()
        made = ClusterStage(bus=bus, store=store, cluster=cluster, vhost=vhost, nodes=nodes)
        made.start(*ROLES)
        yield made
