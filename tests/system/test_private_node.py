"""The private RabbitMQ node: who can reach it, and that nothing of it is left behind, however its owner ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import amqp
import httpx
import pytest
from amqp.exceptions import AccessRefused

from bus.broker import installation, processes
from bus.broker.node import PrivateNode
from bus.errors import BrokerUnavailable, ConfigurationError, NotAvailable
from tests.services import definitions_with_user

pytestmark = pytest.mark.usefixtures("installed_rabbitmq")

USER, PASSWORD = "erp-walldorf", "correct horse"
DEFINITIONS = definitions_with_user(USER, PASSWORD)
PATIENCE = 60  # seconds, for what happens in other processes
LOOPBACK = {"0100007F", "00000000000000000000000001000000"}  # 127.0.0.1 and ::1 as /proc/net/tcp writes them

# Owns a node until somebody ends it; one line tells that the node is up.
OWNER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal; what runs in the background ignores it
from bus.broker.node import PrivateNode
from tests.services import definitions_with_user
with PrivateNode(sys.argv[1], definitions=definitions_with_user("a", "b")) as node:
    print(node.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A running node with the management API, in a folder with a space; these tests leave it running."""
    folder = tmp_path_factory.mktemp("private node") / ".bus" / "rabbitmq"
    with PrivateNode(folder, definitions=DEFINITIONS, management=True) as running:
        yield running
        running.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "rabbitmq"


def test_a_user_of_the_definitions_gets_in(node: PrivateNode) -> None:
    with connection(node) as connected:
        assert connected.connected


def test_guest_is_refused(node: PrivateNode) -> None:
    with pytest.raises(AccessRefused), connection(node, user="guest", password="guest"):
        pass


def test_guest_does_not_exist(node: PrivateNode) -> None:
    users = httpx.get(f"http://127.0.0.1:{node.management_port}/api/users", auth=(USER, PASSWORD)).json()

    assert [user["name"] for user in users] == [USER]


def test_a_consistent_hash_exchange_can_be_declared(node: PrivateNode) -> None:
    with connection(node) as connected:
        connected.channel().exchange_declare("by-subject", "x-consistent-hash", durable=True, auto_delete=False)

        found = httpx.get(
            f"http://127.0.0.1:{node.management_port}/api/exchanges/%2F/by-subject", auth=(USER, PASSWORD)
        )
        assert found.json()["type"] == "x-consistent-hash"


def test_no_process_of_the_node_listens_beyond_loopback(node: PrivateNode) -> None:
    listening = listening_addresses(processes_in(node.folder))

    assert {port for _, port in listening} >= {node.amqp_port, node.management_port}
    assert {address for address, _ in listening} <= LOOPBACK


def test_nobody_else_can_read_what_the_node_keeps(node: PrivateNode) -> None:
    secrets = [node.folder / name for name in ("definitions.json", "rabbitmq.conf", "rabbitmq.log")]

    assert node.folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600] * len(secrets)
    assert (node.folder / ".erlang.cookie").stat().st_mode & 0o777 == 0o400
    assert PASSWORD not in (node.folder / "definitions.json").read_text()


def test_the_cookie_stands_on_no_command_line(node: PrivateNode) -> None:
    cookie = (node.folder / ".erlang.cookie").read_bytes()

    assert all(cookie not in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes_in(node.folder))


def test_a_second_start_in_the_same_folder_is_refused_and_disturbs_nobody(node: PrivateNode) -> None:
    with pytest.raises(NotAvailable, match=f"already runs in .*, started by process {os.getpid()}"):
        PrivateNode(node.folder, definitions=DEFINITIONS).start()

    with connection(node) as connected:
        assert connected.connected


def test_kill_and_restart_keep_a_message_of_a_quorum_queue_and_stop_leaves_nothing(folder: Path) -> None:
    with PrivateNode(folder, definitions=DEFINITIONS) as node:
        port = node.amqp_port
        with connection(node) as connected:
            quorum = {"x-queue-type": "quorum"}
            connected.channel().queue_declare("orders", durable=True, auto_delete=False, arguments=quorum)
        # Killed in its first second a quorum queue does not come back: RabbitMQ notes its name on disk that late.
        node.restart()
        with connection(node) as connected:
            order = amqp.Message(b"order 4711", delivery_mode=2)
            connected.channel().basic_publish_confirm(order, routing_key="orders")

        node.kill()
        node.restart()

        assert node.amqp_port == port
        with connection(node) as connected:
            kept = connected.channel().basic_get("orders", no_ack=True)
            assert kept is not None
            assert kept.body == b"order 4711"

    assert processes_in(folder) == []


def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    with owner_of_a_node(folder) as owner:
        owner.send_signal(signal.SIGINT)
        owner.wait(PATIENCE)

        assert processes_in(folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_guard_ends_the_node_of_an_owner_that_was_killed(folder: Path, number: signal.Signals) -> None:
    with owner_of_a_node(folder) as owner:
        watched = [os.pidfd_open(pid) for pid in processes_in(folder)]
        owner.send_signal(number)
        owner.wait(PATIENCE)

        wait_until_ended(watched)
        assert processes_in(folder) == []


def test_the_next_start_ends_a_node_whose_owner_and_guard_were_killed(folder: Path) -> None:
    with owner_of_a_node(folder) as owner:
        stale = processes_in(folder)
        for pid in [owner.pid, *children_of(owner.pid, without=stale)]:
            os.kill(pid, signal.SIGKILL)
        owner.wait(PATIENCE)
        assert set(stale) <= set(processes_in(folder))

        with PrivateNode(folder, definitions=DEFINITIONS) as node:
            assert not set(stale) & set(processes_in(folder))
            with connection(node) as connected:
                assert connected.connected


def test_a_recorded_process_that_is_not_ours_is_left_alone(folder: Path) -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as stranger:
        folder.mkdir()
        (folder / "processes.json").write_text(f'{{"mark": "0:{folder}", "node": {stranger.pid}, "epmd": 1}}')

        processes.end_what_is_left(folder)

        assert stranger.poll() is None
        stranger.communicate()


def test_a_failed_boot_shows_the_end_of_the_log_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        PrivateNode(folder, definitions={"users": "not a list"}).start()

    assert f"From {folder}/rabbitmq.log" in str(caught.value)
    assert "rabbit_definitions" in str(caught.value)
    assert processes_in(folder) == []


def test_a_missing_rabbitmq_is_said_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_DEBIAN_SERVER", folder / "rabbitmq-server")
    monkeypatch.setattr(installation, "_may_install", lambda: False)
    monkeypatch.setenv("PATH", str(folder))

    with pytest.raises(NotAvailable) as caught:
        PrivateNode(folder, definitions=DEFINITIONS).start()

    assert "apt-get install --no-install-recommends rabbitmq-server`" in str(caught.value)
    assert "make demo BROKER=amqp://" in str(caught.value)
    assert not folder.exists()


def test_a_wrong_rabbitmq_home_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RABBITMQ_HOME", str(folder))

    with pytest.raises(ConfigurationError, match=f"RABBITMQ_HOME is {folder}"):
        PrivateNode(folder, definitions=DEFINITIONS).start()


# --- what the tests look at ------------------------------------------------------------------------------------------


def connection(node: PrivateNode, *, user: str = USER, password: str = PASSWORD) -> amqp.Connection:
    return amqp.Connection(f"127.0.0.1:{node.amqp_port}", userid=user, password=password, read_timeout=PATIENCE)


@contextlib.contextmanager
def owner_of_a_node(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that has started a node in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stderr is not None
        try:
            assert owner.stdout.readline(), owner.stderr.read().decode()
            yield owner
        finally:
            owner.kill()


def processes_in(folder: Path) -> list[int]:
    """Every process that carries the mark of a start in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(
            e.startswith(f"{processes.MARK_VARIABLE}=".encode()) and e.endswith(f":{folder}".encode())
            for e in environment
        ):
            found.append(int(process.name))
    return found


def children_of(parent: int, *, without: list[int]) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(child) for child in children if int(child) not in without]


def wait_until_ended(watched: list[int]) -> None:
    """Return when every process behind these descriptors has ended."""
    for descriptor in watched:
        ended, _, _ = select.select([descriptor], [], [], PATIENCE)
        assert ended, "a process of the node is still running"
        os.close(descriptor)


def listening_addresses(pids: list[int]) -> set[tuple[str, int]]:
    """(address in the kernel's hexadecimal form, port) of every TCP socket these processes listen on."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:[") : -1])
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            local, state, inode = columns[1], columns[3], columns[9]
            if state == "0A" and inode in inodes:
                address, port = local.split(":")
                addresses.add((address, int(port, 16)))
    return addresses
