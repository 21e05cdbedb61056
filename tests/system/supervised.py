"""Programs that tests of supervisor and worker run as real processes; each says on stdout what happens to it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from datetime import timedelta

from dramatiq import actor, set_broker
from dramatiq.brokers.stub import StubBroker

from bus.workers.actors import declare_actors
from bus.workers.broker import HintBroker
from bus.workers.signals import Stop, on_stop_signals
from bus.workers.supervisor import Child, Supervisor
from bus.workers.worker import run_worker
from tests.system.workbench import ARGUMENTS, QUEUE

_LINE = threading.Lock()


class Printing:
    """Telemetry as lines of JSON."""

    def event(self, name: str, **fields: object) -> None:
        with _LINE:
            os.write(1, json.dumps({"event": name, **fields}).encode() + b"\n")


def supervisor(drain_within: str, *children: str) -> int:
    """Supervise children given as `name=program`."""
    specs = [child.split("=") for child in children]
    supervisor = Supervisor(
        [Child(name=name, argv=[sys.executable, "-m", __spec__.name, *rest.split(",")]) for name, rest in specs],
        telemetry=Printing(),
        drain_within=timedelta(seconds=float(drain_within)),
        jitter=lambda: 0.0,
    )
    on_stop_signals(supervisor.stop, end_within=timedelta(seconds=30))
    return 0 if supervisor.run() else 1


def obedient() -> int:
    """A child that drains on SIGTERM."""
    stop = Stop()
    on_stop_signals(stop.ask, end_within=timedelta(seconds=10))
    Printing().event("up", pid=os.getpid())
    stop.wait()
    Printing().event("drained", pid=os.getpid())
    return 0


def stubborn() -> int:
    """A child that does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Printing().event("up", pid=os.getpid())
    return threading.Event().wait() and 1


def threaded(program: str, *arguments: str) -> int:
    """One of these programs, of which another thread than the main one gets every SIGTERM."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    started: int = globals()[program](*arguments)
    return started


def hopeless() -> int:
    """A child that ends at once."""
    return 3


def hanging() -> int:
    """A process that is asked to stop while its main thread does not listen."""
    on_stop_signals(lambda: None, end_within=timedelta(seconds=0.3))
    Printing().event("up", pid=os.getpid())
    while True:
        threading.Event().wait()


def worker(seconds: str, drain_within: str) -> int:
    """A worker whose work takes so long; exit code 0 when it finished everything, 1 when it gave up."""
    url = os.environ["BROKER"]
    broker = HintBroker(url, queue_arguments={QUEUE: ARGUMENTS}, concurrency={QUEUE: 1}, telemetry=Printing())

    def work() -> None:
        Printing().event("work begins")
        threading.Event().wait(float(seconds))
        Printing().event("work ends")

    declare_actors(broker, {QUEUE: work}, telemetry=Printing())
    stop = Stop()
    on_stop_signals(stop.ask, end_within=timedelta(seconds=20))
    drained = run_worker(broker, stop=stop, telemetry=Printing(), drain_within=timedelta(seconds=float(drain_within)))
    return 0 if drained else 1


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))

# What `python -m dramatiq` needs when it imports this file: a broker, and an actor.
set_broker(StubBroker())
actor(obedient)
