"""Three RabbitMQ nodes that form one cluster, each in a namespace of its own, and what an administrator does there.

Each node is `kill -9`ed, cut off and replaced as a machine would be; nothing outlives the process that made them.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bus.broker.installation import provide_rabbitmq
from bus.broker.node_files import Ports, node_environment
from tests.faults.cluster_network import Network, Place
from tests.system.running_bus import until

USER, PASSWORD = "mes", "secret"
SIZE = 3
BOOT_LIMIT = 180.0  # seconds for three nodes at once, on a machine that is four times slower and busy
SILENCE = 8
"""Seconds (net_ticktime) after which a node takes another one that says nothing for gone; RabbitMQ's default is 60."""

_AMQP = 5672
_PORTS = Ports(amqp=_AMQP, management=15672, distribution=25672, epmd=4369)
_AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
# Waits until its input ends: its owner closed it, or died. What runs in a namespace is known by that alone.
_GUARD = """
read -r _
for namespace in $NAMESPACES; do ip netns pids "$namespace" | xargs -r kill -9; done
"""


@dataclass(eq=False)
class Node:
    """One node: where it is, its folder, and its process while it runs."""

    place: Place
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"rabbit@{self.place.address}"

    @property
    def log(self) -> Path:
        return self.folder / "rabbitmq.log"

    def greets(self) -> bool:
        """Whether it takes AMQP connections: a node in a minority pauses and does not."""
        try:
            with socket.create_connection((self.place.address, _AMQP), timeout=1) as connection:
                connection.sendall(_AMQP_GREETING)
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class QueueHome:
    """Where a quorum queue is."""

    leader: Node
    members: frozenset[Node]


class Cluster:
    """Three nodes on a network of their own; use it from one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._installation = provide_rabbitmq()
        self._cookie = secrets.token_hex(16)
        self.network = Network(size=SIZE)
        self._guard = _guard(self.network)
        self.nodes = [Node(place, folder / f"node-{at}") for at, place in enumerate(self.network.places, 1)]

    def start(self) -> Self:
        """Returns when all three are one cluster."""
        try:
            self.boot(*self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the nodes and take the network away; nothing in it is needed any more."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()
        for node in self.nodes:
            if node.process is not None:
                node.process.wait()
                node.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- nodes -------------------------------------------------------------------------------------------------------

    def kill(self, *nodes: Node) -> None:
        """kill -9, all at once."""
        ended = [node.process for node in nodes if node.process is not None]
        for process in ended:
            process.kill()
        for process in ended:
            process.wait()
        for node in nodes:
            node.process = None

    def boot(self, *nodes: Node) -> None:
        """Start them side by side on the data they have; returns when each takes connections.

        A node without data joins the cluster that the others are.
        """
        for node in nodes:
            self._spawn(node)
        self.wait_for(*nodes)

    def wait_for(self, *nodes: Node) -> None:
        """Return when each takes connections; one that does not is started once more, as an administrator would.

        A node of RabbitMQ 3.10 whose line goes while it comes back from a pause was seen to wait for a table of Mnesia
        that nobody gave it, for ten minutes.
        """
        for node in nodes:
            if not until(node.greets, within=BOOT_LIMIT):
                self.kill(node)
                self._spawn(node)
                assert until(node.greets, within=BOOT_LIMIT), f"{node} does not come up\n{_tail(node.log)}"

    def complete(self) -> None:
        """Everybody reaches everybody, every node runs, and each says that it sees the others.

        Nodes of which one does not see another, although every line is whole, are started once more: on a busy machine
        RabbitMQ 3.10 was seen to stay so.
        """
        self.network.heal()
        self.boot(*(node for node in self.nodes if node.process is None or node.process.poll() is not None))
        self.wait_for(*self.nodes)
        if not until(lambda: not self._apart(), within=BOOT_LIMIT):
            apart = self._apart()
            self.kill(*apart)
            self.boot(*apart)
            assert until(lambda: not self._apart(), within=BOOT_LIMIT), self._apart()

    def _apart(self) -> list[Node]:
        """The nodes that do not see all others."""
        return [node for node in self.nodes if len(self.running_seen_by(node)) < SIZE]

    # --- what an administrator asks and orders -----------------------------------------------------------------------

    def command(self, node: Node, *words: str, program: str = "rabbitmqctl") -> str:
        """What RabbitMQ's own command says, asked beside this node."""
        asked = subprocess.run(
            node.place.inside(
                str(self._installation.server.with_name(program)), "--longnames", "-n", node.name, "-q", *words
            ),
            env=self._environment(node),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BOOT_LIMIT,
            check=False,
        )
        assert asked.returncode == 0, f"{program} {shlex.join(words)} at {node}: {asked.stdout}{asked.stderr}"
        return asked.stdout

    def running_seen_by(self, node: Node) -> list[str]:
        """The nodes that run, as this one sees it."""
        status: dict[str, Any] = json.loads(self.command(node, "cluster_status", "--formatter", "json"))
        return list(status["running_nodes"])

    @contextlib.contextmanager
    def fresh_vhost(self) -> Iterator[str]:
        """A vhost that nobody used; gone afterwards."""
        vhost = f"v{secrets.token_hex(4)}"
        self.command(self.nodes[0], "add_vhost", vhost)
        self.command(self.nodes[0], "set_permissions", "-p", vhost, USER, ".*", ".*", ".*")
        yield vhost
        self.command(next(node for node in self.nodes if node.greets()), "delete_vhost", vhost)

    def keep_definitions(self) -> None:
        """Have every node write what was declared; it does so by itself some seconds later (RabbitMQ 3.10).

        Exchanges declared two seconds before all three were killed were seen to be gone afterwards.
        """
        self.command(self.nodes[0], "eval", "{_, []} = rpc:multicall(mnesia, dump_log, []).")

    def queues(self, vhost: str) -> dict[str, QueueHome]:
        """Where each queue is, as the first node says that answers; a queue that has no leader is left out."""
        node = next(node for node in self.nodes if node.greets())
        told = self.command(node, "list_queues", "-p", vhost, "name", "leader", "members", "--formatter", "json")
        by_name = {each.name: each for each in self.nodes}
        return {
            queue["name"]: QueueHome(by_name[queue["leader"]], frozenset(by_name[each] for each in queue["members"]))
            for queue in json.loads(told)
            if queue["leader"] in by_name
        }

    def lead(self, vhost: str, queue: str, node: Node) -> None:
        """Have this node lead the queue, which must have another leader now; returns when it does."""
        resource = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
        order = f"{{ok, Q}} = rabbit_amqqueue:lookup({resource}), rabbit_quorum_queue:transfer_leadership(Q, '{node}')."
        self.command(node, "eval", order)
        assert until(lambda: (home := self.queues(vhost).get(queue)) is not None and home.leader is node)

    def replace(self, node: Node) -> None:
        """The others forget this node, and an empty one at its address joins and becomes a member of every queue."""
        other = next(each for each in self.nodes if each is not node)
        self.kill(node)
        shutil.rmtree(node.folder)
        self.command(other, "forget_cluster_node", node.name)
        self.boot(node)
        assert until(lambda: len(self.running_seen_by(other)) == SIZE, within=BOOT_LIMIT)
        self.command(other, "grow", node.name, "all", program="rabbitmq-queues")

    def url(self, vhost: str, nodes: Sequence[Node]) -> str:
        return ";".join(f"amqp://{USER}:{PASSWORD}@{node.place.address}:{_AMQP}/{vhost}" for node in nodes)

    # --- what a node is given ----------------------------------------------------------------------------------------

    def _spawn(self, node: Node) -> None:
        node.folder.mkdir(parents=True, exist_ok=True)
        cookie = node.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)
        (node.folder / "enabled_plugins").write_text("[rabbitmq_consistent_hash_exchange].\n")
        (node.folder / "rabbitmq.conf").write_text(self._configuration(node))
        with open(node.log, "ab") as log:
            node.process = subprocess.Popen(
                node.place.inside(str(self._installation.server)),
                env=self._environment(node),
                cwd=node.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _configuration(self, node: Node) -> str:
        backend = "cluster_formation.peer_discovery_backend = classic_config"
        peers = [f"cluster_formation.classic_config.nodes.{at} = {each}" for at, each in enumerate(self.nodes, 1)]
        lines = [
            f"listeners.tcp.any = {node.place.address}:{_AMQP}",
            f"default_user = {USER}",
            f"default_pass = {PASSWORD}",
            "default_user_tags.administrator = true",
            "loopback_users = none",
            # What the README recommends for a cluster: a minority takes nothing.
            "cluster_partition_handling = pause_minority",
            backend,
            *peers,
        ]
        return "\n".join(lines) + "\n"

    def _environment(self, node: Node) -> dict[str, str]:
        address = node.place.address
        plain = node_environment(node.folder, ports=_PORTS)
        return plain | {
            "ERL_EPMD_ADDRESS": address,
            "RABBITMQ_NODENAME": node.name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{plain['RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS']} "
            f"-kernel net_ticktime {SILENCE} +S 2:2",
            "ERL_AFLAGS": f"-kernel inet_dist_use_interface {{{address.replace('.', ',')}}}",
        }


def _guard(network: Network) -> subprocess.Popen[bytes]:
    """Ends what runs in the namespaces and takes them away when its input ends, however its owner ended."""
    away = "\n".join(shlex.join(command) for command in network.removal())
    names = " ".join(place.namespace for place in network.places)
    return subprocess.Popen(
        ["/bin/sh", "-c", f"NAMESPACES='{names}'\n{_GUARD}{away}\n"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-15:])
