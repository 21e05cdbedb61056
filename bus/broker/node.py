"""A private RabbitMQ node in a folder: started for one command, reachable from this machine only, ended with it.

Nothing outlives the process that called `start`: `stop` ends the node and its port mapper, a guard process does it
where the caller was killed, and the next start in the folder does it where the guard was killed too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bus.broker import processes
from bus.broker.installation import Installation, provide_rabbitmq
from bus.broker.node_files import LOOPBACK, Ports, node_environment, open_private, write_node_files
from bus.errors import BrokerUnavailable, NotAvailable

BOOT_LIMIT = timedelta(seconds=120)
STOP_LIMIT = timedelta(seconds=15)
_LOOK_AGAIN = 0.02  # seconds
_LOG_LINES = 15
_AMQP_GREETING = b"AMQP\x00\x00\x09\x01"
# Below the range from which Linux takes the local ports of outgoing connections: nobody gets one of these by chance.
_PORT_RANGE = range(20_000, 32_000)
# Waits until its input ends. A line means that the node was stopped; an end without one, that its owner died.
_GUARD = 'read -r line || exec "$@"'


class PrivateNode:
    """One RabbitMQ node with its own data folder, port mapper, cookie and free loopback ports.

    `definitions` are RabbitMQ's own (users with `password_hash`, vhosts, permissions, topology); they are loaded at
    every boot, after the plugins, and keep RabbitMQ from creating its user guest. Data stay in the folder between
    starts. One owner per folder, Linux only, not for use from several threads at once. `plugins` and `configuration`:
    further ones, and further lines of rabbitmq.conf (a listener for TLS, say).
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        definitions: Mapping[str, Any],
        management: bool = False,
        plugins: Sequence[str] = (),
        configuration: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder).resolve()
        self._definitions = definitions
        self._management = management
        self._plugins = plugins
        self._configuration = configuration
        self._installation: Installation | None = None
        self._lock: int | None = None
        self._ports: Ports | None = None
        self._mark = ""
        self._epmd: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def amqp_port(self) -> int:
        """Where AMQP 0-9-1 answers on 127.0.0.1; stays the same over `kill` and `restart`."""
        return self._ports_in_use().amqp

    @property
    def management_port(self) -> int:
        """Where the management API answers on 127.0.0.1; only for a node started with `management=True`."""
        if not self._management:
            raise NotAvailable(
                f"The node in {self.folder} runs without the management API: start it with management=True."
            )
        return self._ports_in_use().management

    @property
    def pid(self) -> int:
        """The process of the node itself (the Erlang machine), of which `kill` is `kill -9`."""
        if self._node is None:
            raise NotAvailable(f"The node in {self.folder} is not running: call start() first.")
        return self._node.pid

    @property
    def log_path(self) -> Path:
        """What the node wrote since its last boot."""
        return self.folder / "rabbitmq.log"

    def start(self) -> Self:
        """Boot the node; returns when it accepts AMQP connections and its definitions are loaded.

        Raises:
            NotAvailable: no RabbitMQ on this machine, or the folder is in use by another node.
            BrokerUnavailable: it did not boot; the text carries the end of its log. Nothing is left running.
        """
        if self._lock is not None:
            raise NotAvailable(f"The node in {self.folder} runs already.")
        self._installation = provide_rabbitmq()
        self._lock = _lock_folder(self.folder)
        try:
            processes.end_what_is_left(self.folder)
            self._ports = _free_ports()
            self._mark = processes.new_mark(self.folder, token=secrets.token_hex(8))
            self._start_guard()
            self._start_epmd()
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the node, then its port mapper; safe to call twice, and after a failed start."""
        if self._lock is None:
            return
        self._stop_node()
        _end_child(self._epmd)
        processes.end_node(self.folder, self._mark)  # helpers of a killed node that are still on their way out
        self._release_guard()
        self._epmd = None
        self._ports = None
        os.close(self._lock)
        self._lock = None

    def kill(self) -> None:
        """End the node without a chance to save anything, as `kill -9` would; `restart` brings it back."""
        if self._node is not None:
            self._node.kill()
            self._node.wait()
            self._node = None

    def restart(self) -> None:
        """Stop the node if it runs, and boot it on the same ports and data.

        Raises:
            BrokerUnavailable: it did not come back; the text carries the end of its log.
        """
        self._ports_in_use()
        self._stop_node()
        self._boot()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ports_in_use(self) -> Ports:
        if self._ports is None:
            raise NotAvailable(f"The node in {self.folder} is not running: call start() first.")
        return self._ports

    def _environment(self) -> dict[str, str]:
        return node_environment(self.folder, ports=self._ports_in_use()) | {processes.MARK_VARIABLE: self._mark}

    def _start_guard(self) -> None:
        last_act = [sys.executable, "-I", "-S", processes.__file__, str(self.folder), self._mark]
        self._guard = subprocess.Popen(  # noqa: S603 - constant script; the folder is an argument, not shell text
            ["/bin/sh", "-c", _GUARD, "sh", *last_act],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _release_guard(self) -> None:
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):  # somebody killed the guard: there is nobody to release
                self._guard.communicate(b"stopped\n")
            self._guard = None

    def _start_epmd(self) -> None:
        # In the foreground, as a child: what Erlang starts on its own is a daemon that outlives the broker.
        assert self._installation is not None
        self._epmd = subprocess.Popen(  # noqa: S603 - the port mapper of the installation found
            [self._installation.epmd],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            start_new_session=True,
        )
        port = self._ports_in_use().epmd
        give_up_at = time.monotonic() + STOP_LIMIT.total_seconds()
        while not _accepts(port):
            if self._epmd.poll() is not None or time.monotonic() > give_up_at:
                raise BrokerUnavailable(
                    f"Erlang's port mapper {self._installation.epmd} did not start on port {port}: "
                    "repeat the command; if it fails again, reinstall Erlang."
                )
            time.sleep(_LOOK_AGAIN)

    def _boot(self) -> None:
        assert self._installation is not None
        assert self._epmd is not None
        write_node_files(
            self.folder,
            ports=self._ports_in_use(),
            definitions=self._definitions,
            management=self._management,
            plugins=self._plugins,
            configuration=self._configuration,
        )
        with open(self.log_path, "wb", opener=open_private) as log_file:
            self._node = subprocess.Popen(  # noqa: S603 - the server of the installation found
                [self._installation.server],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                umask=0o077,
                start_new_session=True,
            )
        processes.NodeRecord(mark=self._mark, node=self._node.pid, epmd=self._epmd.pid).write(self.folder)
        self._wait_until_ready(self._node)

    def _wait_until_ready(self, node: subprocess.Popen[bytes]) -> None:
        give_up_at = time.monotonic() + BOOT_LIMIT.total_seconds()
        while not _greets(self._ports_in_use().amqp):
            if node.poll() is not None:
                raise BrokerUnavailable(self._boot_failure(f"ended with exit code {node.returncode}"))
            if time.monotonic() > give_up_at:
                raise BrokerUnavailable(self._boot_failure(f"was not ready after {BOOT_LIMIT.total_seconds():.0f} s"))
            time.sleep(_LOOK_AGAIN)

    def _boot_failure(self, what: str) -> str:
        lines = [line for line in self.log_path.read_text(errors="replace").splitlines() if line.strip()]
        # RabbitMQ says why in a block of its own, and then goes on about what it stops.
        begin = max((at for at, line in enumerate(lines) if "BOOT FAILED" in line), default=len(lines) - _LOG_LINES)
        shown = "\n".join(f"  {line}" for line in lines[max(begin, 0) :][:_LOG_LINES])
        return f"RabbitMQ {what} while booting in {self.folder}. From {self.log_path}:\n{shown}"

    def _stop_node(self) -> None:
        _end_child(self._node)
        self._node = None


def _end_child(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    child.terminate()
    try:
        child.wait(STOP_LIMIT.total_seconds())
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _lock_folder(folder: Path) -> int:
    """Take the folder for this process; the lock ends with it, however it ends."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(lock, 20).decode() or "unknown"
        os.close(lock)
        raise NotAvailable(
            f"A private RabbitMQ already runs in {folder}, started by process {owner}: "
            "stop that command, or use another folder."
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def _free_ports() -> Ports:
    """Four ports that nobody listens on; held together while choosing so that they differ."""
    with contextlib.ExitStack() as held:
        chosen: list[int] = []
        for port in random.sample(_PORT_RANGE, len(_PORT_RANGE)):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                chosen.append(port)
            if len(chosen) == 4:
                return Ports(*chosen)
    raise BrokerUnavailable(
        f"No four free ports between {_PORT_RANGE.start} and {_PORT_RANGE.stop}: end what uses them."
    )


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def _greets(port: int) -> bool:
    """Whether an AMQP server answers: RabbitMQ opens this port last, after plugins and definitions."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
            connection.sendall(_AMQP_GREETING)
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
