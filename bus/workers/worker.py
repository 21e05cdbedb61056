"""Runs one process of workers: one dramatiq.Worker, as many threads as its queues may use together."""

from __future__ import annotations

from datetime import timedelta

from dramatiq import Worker

from bus.ports import Telemetry
from bus.workers.broker import HintBroker
from bus.workers.signals import Stop

DRAIN_LIMIT = timedelta(seconds=20)
_IDLE = timedelta(milliseconds=500)  # how late an idle thread notices that it shall end


def run_worker(broker: HintBroker, *, stop: Stop, telemetry: Telemetry, drain_within: timedelta = DRAIN_LIMIT) -> bool:
    """Work on the queues whose actors are declared until `stop` is asked for; returns whether all work was finished.

    One per process (dramatiq.Worker allows no second). What runs at the stop is finished within `drain_within`;
    hints that did not begin go back to the broker. A broker that is away is waited for.
    """
    threads = sum(broker.concurrency[queue] for queue in broker.get_declared_queues())
    worker = Worker(broker, worker_threads=threads, worker_timeout=int(_IDLE.total_seconds() * 1000))
    worker.start()
    telemetry.event("worker started", queues=sorted(broker.get_declared_queues()), threads=threads)
    stop.wait()
    telemetry.event("worker drains", within=drain_within.total_seconds())
    broker.drain()
    worker.stop(timeout=int(drain_within.total_seconds() * 1000))
    broker.close()
    unfinished = sum(thread.is_alive() for thread in worker.workers)
    telemetry.event("worker stopped", unfinished=unfinished)
    return unfinished == 0
