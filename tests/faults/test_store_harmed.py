"""SQLite and PostgreSQL: stopped, killed, in recovery, read-only, locked; afterwards the store is whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from bus.broker.node import PrivateNode
from bus.errors import NotAvailable
from bus.model.message import BUS
from bus.store.engine import SILENCE
from tests.conftest import cannot_be_had
from tests.faults.cluster_network import Network
from tests.faults.far_service import far_away
from tests.faults.stage import (
    FAR_POSTGRESQL,
    OWN_POSTGRESQL,
    PATIENCE,
    SMALL_DISK,
    MortalStore,
    Stage,
    lasts,
    under_load,
)
from tests.faults.stage import stage as staged
from tests.faults.survival import Survival
from tests.faults.tools import family, fill, injected, small_disk
from tests.services import PostgreSQL, postgresql_of_the_run
from tests.system.running_bus import ROLES, a_step, locked_for_writers, until

BRIEFLY = 4.0  # seconds
DATABASE = "mortal"
LONGER_THAN_ANYBODY_WAITS = 35.0  # seconds; whoever wants to write to SQLite waits 30


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A PostgreSQL that may be killed; it comes back on the same socket with the same data."""

    made: PostgreSQL
    _command: list[str] = field(default_factory=list)
    _again: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        text = Path(f"/proc/{self.pid}/cmdline").read_text()
        self._command = text.rstrip("\0").split("\0")

    @property
    def pid(self) -> int:
        return int((self.made.folder / "data" / "postmaster.pid").read_text().split()[0])

    @property
    def log(self) -> Path:
        return self.made.folder / "log"

    def end(self, number: signal.Signals) -> None:
        """Its first process gets the signal: SIGQUIT is the immediate stop, SIGKILL leaves even its pid file."""
        pid = self.pid
        os.kill(pid, number)
        assert until(lambda: _is_gone(pid), within=PATIENCE)
        # It is a child of this process. Not reaped it still has its number, and PostgreSQL takes it for running.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    def come_back(self) -> None:
        """Start it, again and again while the processes of the one before are still on their way out."""

        def is_up() -> bool:
            if not self._again or self._again[-1].poll() is not None:
                with self.log.open("ab") as log:
                    self._again.append(
                        subprocess.Popen(
                            self._command,
                            user=self.made.folder.stat().st_uid,
                            cwd="/",
                            stderr=log,
                            start_new_session=True,
                        )
                    )
            return self.accepts()

        assert until(is_up, within=PATIENCE)

    def accepts(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.ask("SELECT 1")
            return True
        return False

    def session(self) -> psycopg.Connection:
        """A connection of an administrator, each statement a transaction."""
        return psycopg.connect(host=str(self.made.folder), user="postgres", dbname=DATABASE, autocommit=True)

    def ask(self, *statements: str) -> list[tuple[int]]:
        """Say this as an administrator; what the last one answers."""
        with self.session() as session:
            session.execute("SET default_transaction_read_only = off")
            for statement in statements:
                answer = session.execute(statement.encode())
            return answer.fetchall() if answer.description else []

    def close(self) -> None:
        for process in self._again:
            process.send_signal(signal.SIGINT)
            process.wait()


def _is_gone(pid: int) -> bool:
    """Ended, be it that nobody asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.fixture(scope="module")
def server(postgresql: PostgreSQL) -> Iterator[Server]:
    with postgresql_of_the_run() as made:
        made.administrator.execute(f"CREATE DATABASE {DATABASE}".encode())
        own = Server(made)
        try:
            yield own
        finally:
            own.close()


@pytest.fixture(scope="module")
def own_stage(
    fault_node: PrivateNode, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Stage, Server]]:
    url = f"postgresql+psycopg://postgres@/{DATABASE}?host={server.made.folder}"
    store = MortalStore(url, url, lambda: server.end(signal.SIGQUIT), server.come_back)
    with staged(tmp_path_factory.mktemp("own"), fault_node, OWN_POSTGRESQL, store) as made:
        yield made, server


def stop_at_once(server: Server) -> None:
    server.end(signal.SIGQUIT)
    lasts(BRIEFLY)
    server.come_back()


def kill(server: Server) -> None:
    server.end(signal.SIGKILL)
    server.come_back()


_CLIENTS = f"FROM pg_stat_activity WHERE datname = '{DATABASE}' AND pid <> pg_backend_pid()"


def kill_a_backend(server: Server) -> None:
    """PostgreSQL ends all others too, and recovers."""
    [(pid,), *_] = server.ask(f"SELECT pid {_CLIENTS}")
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: _is_gone(pid), within=PATIENCE)
    assert until(server.accepts, within=PATIENCE)


def terminate_backends(server: Server) -> None:
    for _ in range(4):
        server.ask(f"SELECT pg_terminate_backend(pid)::int {_CLIENTS}")
        lasts(BRIEFLY / 8)


def make_read_only(server: Server) -> None:
    server.ask("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()::int")
    lasts(BRIEFLY)
    server.ask("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()::int")


def lock(server: Server) -> None:
    with locked_for_writers(f"postgresql+psycopg://postgres@/{DATABASE}?host={server.made.folder}"):
        lasts(BRIEFLY)


_DEADLOCKS = f"SELECT deadlocks FROM pg_stat_database WHERE datname = '{DATABASE}'"


def be_away(server: Server) -> None:
    server.end(signal.SIGQUIT)
    lasts(30)
    server.come_back()


def exhaust_connections(server: Server) -> None:
    """Somebody else takes every connection the server has, those of the bus included."""
    with contextlib.ExitStack() as taken:

        def take_all() -> int:
            count = 0
            with contextlib.suppress(psycopg.OperationalError):  # too many clients already
                while True:
                    taken.enter_context(server.session())
                    count += 1
            return count

        first = taken.enter_context(server.session())
        pids = [pid for (pid,) in first.execute(f"SELECT pid {_CLIENTS}".encode())]
        take_all()
        first.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (pids,))
        assert until(lambda: take_all() == 0, within=PATIENCE)
        lasts(BRIEFLY)


HARM: Mapping[str, Callable[[Server], None]] = {
    "stopped-immediately": stop_at_once,
    "away-30s": be_away,
    "connections-exhausted": exhaust_connections,
    "killed": kill,
    "backend-killed": kill_a_backend,
    "backends-terminated": terminate_backends,
    "read-only": make_read_only,
    "locked": lock,
}
SELECTED = {"backend-killed"}
AWAY = '"event": "store away"'
"""What a relay says, which asks four times a second; whoever waits for a lock says nothing."""
PAUSE = timedelta(seconds=1)
"""Of publishers, so that the fault finds them at work."""


@pytest.mark.postgresql
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "harm", [pytest.param(name, marks=() if name in SELECTED else pytest.mark.every_fault) for name in HARM]
)
def test_what_was_confirmed_survives_a_postgresql(
    own_stage: tuple[Stage, Server], survival: Survival, harm: str
) -> None:
    stage, server = own_stage
    stage.complete()
    felt = stage.says(AWAY)

    with under_load(stage, survival.seed, pause=PAUSE) as load:
        HARM[harm](server)
        assert harm == "locked" or until(lambda: stage.says(AWAY) > felt, within=PATIENCE), stage.bus.tail()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


_LANES_BACKWARDS = f"""
SELECT lane.id FROM lane
WHERE EXISTS (SELECT FROM delivery WHERE delivery.lane = lane.id AND delivery.stands)
ORDER BY destination = '{BUS}', destination COLLATE "C" DESC, key COLLATE "C" DESC
"""


def deadlock(server: Server) -> None:
    """Somebody locks lanes in the other order than the bus, and the bus is the victim."""
    [(before,)] = server.ask(_DEADLOCKS)
    with server.session() as rival:
        # Who looks for a deadlock is its victim: after one second of waiting the bus, after 60 the rival.
        rival.execute("SET deadlock_timeout = '60s'")
        rival.execute("SET lock_timeout = '3s'")
        blocked = f"SELECT count(*) FROM pg_stat_activity WHERE {rival.info.backend_pid} = ANY(pg_blocking_pids(pid))"

        def comes_true() -> bool:
            with contextlib.suppress(psycopg.errors.LockNotAvailable), rival.transaction():
                rival.execute(f"{_LANES_BACKWARDS} LIMIT 1 FOR UPDATE".encode())
                if until(lambda: server.ask(blocked) != [(0,)], within=BRIEFLY):
                    rival.execute(f"{_LANES_BACKWARDS} FOR UPDATE".encode())
            return server.ask(_DEADLOCKS)[0][0] > before

        assert until(comes_true, within=PATIENCE)


@pytest.mark.postgresql
@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_what_a_deadlock_ended_is_done_again(own_stage: tuple[Stage, Server], survival: Survival) -> None:
    stage, server = own_stage
    stage.complete()

    with under_load(stage, survival.seed, orders=48) as load:
        deadlock(server)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


def slow_disk(server: Server, strace: Path) -> None:
    """Every flush takes a quarter of a second."""
    with injected(strace, family(server.pid), calls="fsync,fdatasync", what="delay_exit=250000"):
        lasts(4 * BRIEFLY)


def failing_disk(server: Server, strace: Path) -> None:
    """A flush fails: PostgreSQL trusts nothing it has in memory any more and recovers from its log."""

    def panics() -> int:
        return server.log.read_text(errors="replace").count("PANIC:")

    before = panics()
    # Those that run now: in its recovery PostgreSQL 18 would wait for ever for a disk that fails.
    running = family(server.pid)[1:]
    with injected(strace, running, calls="fsync,fdatasync", what="error=EIO", follow=False):
        assert until(lambda: panics() > before, within=PATIENCE)
    assert until(server.accepts, within=PATIENCE)


DISKS: Mapping[str, Callable[[Server, Path], None]] = {"slow": slow_disk, "failing": failing_disk}


@pytest.mark.postgresql
@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("harm", DISKS)
def test_what_was_confirmed_survives_the_disk_of_a_postgresql(
    own_stage: tuple[Stage, Server], strace: Path, survival: Survival, harm: str
) -> None:
    stage, server = own_stage
    stage.complete()

    with under_load(stage, survival.seed) as load:
        DISKS[harm](server, strace)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


@pytest.fixture
def far_stage(fault_node: PrivateNode, postgresql: PostgreSQL, namespaces: None, tmp_path: Path) -> Iterator[Stage]:
    """A bus whose store stands on another machine, as far as it can see."""
    with contextlib.ExitStack() as stack:
        direct_url = stack.enter_context(postgresql.fresh_database())
        network = stack.enter_context(Network(size=1))
        (place,) = network.places
        url = make_url(direct_url)
        port = stack.enter_context(far_away(network, Path(str(url.query["host"])) / ".s.PGSQL.5432"))
        far = url.set(host=place.address, port=port, query={"sslmode": "disable"})
        store = MortalStore(
            far.render_as_string(hide_password=False),
            direct_url,
            lambda: network.unplug(place),
            lambda: network.plug(place),
        )
        yield stack.enter_context(staged(tmp_path, fault_node, FAR_POSTGRESQL, store))


@pytest.mark.postgresql
@pytest.mark.timeout(500)
@pytest.mark.every_fault
def test_a_line_to_a_postgresql_that_drops_everything_is_given_up_and_found_again(
    far_stage: Stage, survival: Survival
) -> None:
    """Nobody ends a connection and nothing is answered: as behind a firewall that forgot the line."""
    stage = far_stage
    felt = stage.says(AWAY)

    with under_load(stage, survival.seed, orders=48, pause=PAUSE) as load:
        stage.store.go_away()
        assert until(lambda: stage.says(AWAY) > felt, within=3 * SILENCE + PATIENCE), stage.bus.tail()
        lasts(SILENCE)  # what the server still holds for whoever is gone is given up there
        stage.store.come_back()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


# --- SQLite ----------------------------------------------------------------------------------------------------------


FLUSHES = "fsync,fdatasync"
WRITES = f"pwrite64,{FLUSHES}"


def is_whole(stage: Stage) -> bool:
    with contextlib.closing(sqlite3.connect(stage.bus.database.path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_sqlite_whose_every_writer_is_killed_again_and_again_is_whole(
    sqlite_stage: Stage, survival: Survival
) -> None:
    stage, chance = sqlite_stage, random.Random(survival.seed)
    stage.complete()

    with under_load(stage, survival.seed, orders=36) as load:
        for _ in range(5):
            stage.bus.kill(*ROLES)
            assert is_whole(stage)
            stage.start(*ROLES)
            lasts(chance.uniform(1.5, 4))

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert is_whole(stage)


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_sqlite_whose_writers_are_killed_in_the_middle_of_a_write_is_whole(
    sqlite_stage: Stage, strace: Path, survival: Survival
) -> None:
    """Each is killed at a system call that writes a page or flushes one, the how-many-th says the seed."""
    stage, chance = sqlite_stage, random.Random(survival.seed)
    stage.complete()

    with under_load(stage, survival.seed, orders=36) as load:
        for turn in range(3 * len(ROLES)):
            role = ROLES[turn % len(ROLES)]
            victim = stage.bus.processes.pop(role)
            fatal = f"signal=KILL:when={chance.randint(1, 12)}"
            with injected(strace, [victim.pid], calls=WRITES, what=fatal):
                work = a_step(f"{load.truth.name}-more-{turn}", 0)
                stage.bus.publish(work)
                load.truth.expect_last(work)
                assert victim.wait(PATIENCE) == -signal.SIGKILL
            assert is_whole(stage)
            stage.start(role)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert is_whole(stage)


def fail_flushes(stage: Stage, strace: Path) -> None:
    failed = stage.says("disk I/O error")
    pids = [process.pid for process in stage.bus.processes.values()]
    with injected(strace, pids, calls=FLUSHES, what="error=EIO"):
        assert until(lambda: stage.says("disk I/O error") > failed + 3, within=PATIENCE)
        lasts(BRIEFLY)


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_what_was_confirmed_survives_a_sqlite_whose_disk_fails_to_flush(
    sqlite_stage: Stage, strace: Path, survival: Survival
) -> None:
    stage = sqlite_stage
    stage.complete()

    with under_load(stage, survival.seed) as load:
        fail_flushes(stage, strace)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert is_whole(stage)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


@pytest.fixture(scope="module")
def small_disk_stage(
    fault_node: PrivateNode, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A bus whose store lies on a disk of 24 MB."""
    folder = tmp_path_factory.mktemp("small")
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(folder / "disk", megabytes=24))
        except NotAvailable as error:
            cannot_be_had(pytestconfig, "a small disk", error)
        url = f"sqlite:///{disk}/bus.db"
        store = MortalStore(url, url, lambda: fill(disk / "ballast"), (disk / "ballast").unlink)
        yield stack.enter_context(staged(folder, fault_node, SMALL_DISK, store))


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_what_was_confirmed_survives_a_full_disk(small_disk_stage: Stage, survival: Survival) -> None:
    stage = small_disk_stage
    stage.complete()
    full = stage.says("disk is full")

    with under_load(stage, survival.seed, orders=48) as load:
        stage.store.go_away()
        assert until(lambda: stage.says("disk is full") > full, within=PATIENCE), stage.bus.tail()
        lasts(2 * BRIEFLY)
        stage.store.come_back()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert is_whole(stage)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("seconds", [BRIEFLY, LONGER_THAN_ANYBODY_WAITS])
def test_a_sqlite_that_another_program_locks_is_waited_for(
    sqlite_stage: Stage, survival: Survival, seconds: float
) -> None:
    stage = sqlite_stage
    stage.complete()

    with under_load(stage, survival.seed) as load, locked_for_writers(stage.store.direct_url):
        lasts(seconds)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert is_whole(stage)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


# --- at the end of everything ----------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_bus_that_is_stopped_after_faults_leaves_nothing_in_queues_and_leases(
    stage: Stage, survival: Survival
) -> None:
    with under_load(stage, survival.seed) as load:
        stage.bus.kill(*ROLES)
        stage.start(*ROLES)

    survival.tell([*stage.findings(load.truth), *stage.leftovers()], store=stage.kind, holding=load.holding)
