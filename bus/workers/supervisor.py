"""Keeps the processes of `bus run` alive: each is restarted by itself, all are stopped together."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Literal

from bus.ports import Telemetry
from bus.workers import child as launcher
from bus.workers.signals import LOOK_AGAIN

DRAIN_LIMIT = timedelta(seconds=30)
_FIRST_DELAY = timedelta(milliseconds=500)
_LONGEST_DELAY = timedelta(seconds=30)
_HEALTHY_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process to keep alive. `name` is what an operator says: `router`, `worker-2`, `relay`."""

    name: str
    argv: Sequence[str]


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    since: float


def restart_delay(deaths: int, *, jitter: float) -> timedelta:
    """How long to wait after so many deaths in a row, each soon after its start; `jitter` is 0 to 1."""
    full = min(_FIRST_DELAY * (1 << min(deaths - 1, 10)), _LONGEST_DELAY)
    return full / 2 + full / 2 * jitter


class Supervisor:
    """Runs children until `stop` is called; one that dies is restarted and disturbs no other.

    (The master of Dramatiq 2.2.1, dramatiq.cli.main, stops all its processes when one of them dies.)

    Children end with the supervisor, also when it is killed: the kernel sends them SIGTERM (Linux). Each is a session
    of its own, so Ctrl-C reaches the supervisor alone and a child that must be killed takes its children along.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        telemetry: Telemetry,
        drain_within: timedelta = DRAIN_LIMIT,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._children = {child.name: child for child in children}
        self._telemetry = telemetry
        self._drain_within = drain_within
        self._jitter = jitter
        self._running: dict[str, _Running] = {}
        self._deaths = dict.fromkeys(self._children, 0)
        self._restart_at: dict[str, float] = {}
        # Written to by a signal handler too: SimpleQueue is the one that may be (queue.Queue's lock is not reentrant).
        self._inbox: SimpleQueue[str | Literal[True]] = SimpleQueue()

    def stop(self) -> None:
        """Ask all children to drain; asked a second time, kill them. Safe in a signal handler."""
        self._inbox.put(True)

    def run(self) -> bool:
        """Start the children and keep them running until stopped; returns whether every one of them drained in time.

        Call it in a thread that lives as long as the process: the kernel's signal to the children goes by threads.
        """
        for child in self._children.values():
            self._start(child)
        while (event := self._next_event()) is not True:
            if event is not None:
                self._plan_restart(event)
            for name in self._due():
                self._start(self._children[name])
        return self._drain()

    def _start(self, child: Child) -> None:
        self._restart_at.pop(child.name, None)
        process = subprocess.Popen(  # noqa: S603 - the composition root's argument list, no shell
            [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *child.argv],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running[child.name] = _Running(process, since=time.monotonic())
        threading.Thread(target=self._watch, args=(child.name, process.pid), daemon=True).start()
        self._telemetry.event("child started", child=child.name, pid=process.pid)

    def _watch(self, name: str, pid: int) -> None:
        # WNOWAIT leaves the dead process to the main thread: until that reaps it, nobody else can get its number.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._inbox.put(name)

    def _next_event(self) -> str | Literal[True] | None:
        """The name of a child that ended, True for the wish to stop, None when it is time to look what is due."""
        now = time.monotonic()
        # Never for long: a signal that reaches another thread is handled when this one looks up.
        wait = min(self._restart_at.values(), default=now + LOOK_AGAIN) - now
        try:
            return self._inbox.get(timeout=min(max(0.0, wait), LOOK_AGAIN))
        except Empty:
            return None

    def _due(self) -> list[str]:
        now = time.monotonic()
        return [name for name, at in self._restart_at.items() if at <= now]

    def _plan_restart(self, name: str) -> None:
        ended = self._running.pop(name)
        code = ended.process.wait()
        lived = timedelta(seconds=time.monotonic() - ended.since)
        self._deaths[name] = 1 if lived >= _HEALTHY_AFTER else self._deaths[name] + 1
        delay = restart_delay(self._deaths[name], jitter=self._jitter())
        self._restart_at[name] = time.monotonic() + delay.total_seconds()
        self._telemetry.event(
            "child died",
            child=name,
            pid=ended.process.pid,
            code=code,
            lived=lived.total_seconds(),
            restart_in=delay.total_seconds(),
        )

    def _drain(self) -> bool:
        give_up_at = time.monotonic() + self._drain_within.total_seconds()
        for running in self._running.values():
            running.process.send_signal(signal.SIGTERM)
        while self._running:
            try:
                event = self._inbox.get(timeout=max(0.0, give_up_at - time.monotonic()))
            except Empty:
                break
            if event is True:
                break
            self._note_end(event)
        drained = not self._running
        for name, running in list(self._running.items()):
            self._telemetry.event("child killed", child=name, pid=running.process.pid)
            os.killpg(running.process.pid, signal.SIGKILL)
            self._note_end(name)
        return drained

    def _note_end(self, name: str) -> None:
        process = self._running.pop(name).process
        self._telemetry.event("child stopped", child=name, pid=process.pid, code=process.wait())
