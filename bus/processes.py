"""The processes of the bus: router, worker, relay, and `bus run` that keeps them all alive."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial

from bus.bootstrap import (
    adapter_or_stand_in,
    broker_url,
    hint_broker,
    open_store,
    private_node,
    release,
    require_sound,
    upgrade_store,
    wake_for,
)
from bus.broker.consumer import Consumer
from bus.broker.declare import declare
from bus.broker.depths import Depths
from bus.broker.leftovers import run_dead_letters
from bus.broker.router import BATCH as RECEIVED
from bus.broker.router import run_router as run_router_loop
from bus.control.rehearse import absent_maps
from bus.errors import ConfigurationError, NotAvailable, StoreRefuses
from bus.model.envelope import Envelope
from bus.model.message_class import MessageClass
from bus.model.route import types_of
from bus.model.topology import DEAD, UNROUTED, queues_of
from bus.pipeline.receive import receive
from bus.pipeline.resume import Heart, Observer, Relay
from bus.pipeline.send import Window, send
from bus.pipeline.transform import transform
from bus.pipeline.worker import BATCH as CLAIMED
from bus.pipeline.worker import BUDGET, Shift
from bus.ports import Actor, Receipt
from bus.project import Project, topology_of
from bus.secret_references import missing_secrets
from bus.settings import PRIVATE
from bus.store.sqlstore import SqlStore
from bus.telemetry.logs import LogTelemetry
from bus.workers.actors import declare_actors
from bus.workers.hints import DramatiqHints
from bus.workers.signals import Stop, on_stop_signals
from bus.workers.supervisor import Child, Supervisor
from bus.workers.worker import run_worker as run_worker_loop

TRANSFORM_THREADS = 2
DRAIN = timedelta(seconds=25)

BACKGROUND_BATCH = 16
"""Messages or deliveries of the event class in one transaction on SQLite, where one writes and all others wait."""

BACKGROUND_NICENESS = 10
"""Of processes that serve the event class alone: a flood of events takes the processor that nobody else needs."""


def _monotonic() -> timedelta:
    return timedelta(seconds=time.monotonic())


def _process_name(role: str) -> str:
    return f"{role}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"


def _until_stopped(threads: Sequence[threading.Thread], stop: threading.Event) -> int:
    """Run the threads until a stop signal; 1 where one of them ended by itself."""
    asked = Stop()
    on_stop_signals(asked.ask, end_within=DRAIN)
    for thread in threads:
        thread.start()
    died = False
    while not asked.wait(timedelta(seconds=0.5)) and not died:
        died = not all(thread.is_alive() for thread in threads)
    stop.set()
    for thread in threads:
        thread.join(DRAIN.total_seconds())
    return 1 if died else 0


def _require_sound(project: Project, *, supervised: bool) -> None:
    """Refuse to start with a project that does not fit together.

    `bus run` has asked the adapters before it started anything. A process that it starts again does not: an address
    that was changed meanwhile is its endpoint's own trouble, what goes there is held, and all others go on.

    Raises:
        ConfigurationError: every complaint, a line each.
    """
    if not supervised:
        require_sound(project)
    elif project.complaints:
        raise ConfigurationError("\n".join(project.complaints))


def run_router(
    project: Project,
    classes: Sequence[MessageClass] = tuple(MessageClass),
    *,
    partitions: Collection[int] | None = None,
    supervised: bool = False,
) -> int:
    """Read the inbound queues of these classes (with the events also what the broker put aside) until stopped.

    `partitions`: of each class only those of its partitions that are named.

    Raises:
        ConfigurationError: a partition that no class has.
    """
    _require_sound(project, supervised=supervised)
    queues = _inbound_queues(project, classes, partitions)
    background = _step_back(set(classes) == {MessageClass.EVENT})
    store = open_store(project, background=background, connections=len(queues))
    telemetry = LogTelemetry(_process_name("router"))
    wake = wake_for(project, telemetry)
    stop = threading.Event()
    url = broker_url(project)
    survived: set[bytes] = set()

    def keep(message_class: MessageClass | None, batch: Sequence[Envelope]) -> Collection[str]:
        return receive(
            batch,
            store=store,
            catalogue=project.catalogue,
            telemetry=telemetry,
            max_bytes=project.settings.max_bytes,
            survived=survived,
            message_class=message_class,
        )

    threads = [
        threading.Thread(
            target=run_router_loop,
            args=(Consumer(url, queue, name=f"plantbus {queue}"), partial(keep, message_class), wake, stop),
            kwargs={"limit": _batch(store, background, RECEIVED)},
            name=queue,
        )
        for queue, message_class in queues
    ]
    if MessageClass.EVENT in classes:
        record = partial(_record_dead_letters, store, telemetry)
        reader = Consumer(url, DEAD, name=f"plantbus {DEAD}")
        threads.append(threading.Thread(target=run_dead_letters, args=(reader, record, stop), name=DEAD))
    return _until_stopped(threads, stop)


def _inbound_queues(
    project: Project, classes: Sequence[MessageClass], partitions: Collection[int] | None
) -> list[tuple[str, MessageClass | None]]:
    """The queues a router reads, each with the class of its messages; None: it takes every class."""
    counts = {each: project.settings.partitions[each] for each in classes}
    most = max(counts.values())
    if unknown := sorted(number for number in partitions or () if number >= most):
        raise ConfigurationError(
            f"there is no partition {unknown[0]}, the last one is {most - 1}: see partitions and event_partitions in "
            "bus.toml"
        )
    queues: list[tuple[str, MessageClass | None]] = [
        (queue, each)
        for each, count in counts.items()
        for number, queue in enumerate(queues_of(each, count))
        if partitions is None or number in partitions
    ]
    if MessageClass.EVENT in classes:
        queues.append((UNROUTED, None))
    return queues


def _step_back(background: bool) -> bool:
    if background:
        os.nice(BACKGROUND_NICENESS)
    return background


def _batch(store: SqlStore, background: bool, usual: int) -> int:
    """How much goes into one transaction: little, where all others wait for it and it is not urgent."""
    return BACKGROUND_BATCH if background and store.database.is_sqlite else usual


def _record_dead_letters(store: SqlStore, telemetry: LogTelemetry, receipts: Sequence[Receipt]) -> None:
    with store.transaction() as transaction:
        transaction.add_receipts(receipts)
    for receipt in receipts:
        telemetry.event("message dead-lettered by the broker", cause=receipt.cause, type=receipt.type)


def event_endpoints(project: Project) -> set[str]:
    """Endpoints that get events only: they have workers of their own, so that a flood delays no transaction."""
    classes: dict[str, set[MessageClass]] = {}
    for route in project.catalogue.routes:
        types = types_of(route) or set(project.catalogue.contracts)
        classes.setdefault(route.to, set()).update(project.catalogue.message_class(name) for name in types)
    return {name for name in project.settings.endpoints if classes.get(name) == {MessageClass.EVENT}}


def queues_of_class(project: Project, message_class: MessageClass) -> list[str]:
    """The workers' queues of a class: its transforms, and the endpoints it serves."""
    events = event_endpoints(project)
    endpoints = [e for e in project.settings.endpoints if (e in events) is (message_class is MessageClass.EVENT)]
    return [f"transform.{message_class}", *(f"send.{name}" for name in endpoints)]


def run_worker(project: Project, queues: Sequence[str] = (), *, supervised: bool = False) -> int:
    """Work on these queues (default: all) until stopped, then drain."""
    _require_sound(project, supervised=supervised)
    names = list(queues or project.catalogue.queues)
    background = _step_back(set(names) <= set(queues_of_class(project, MessageClass.EVENT)))
    store = open_store(project, background=background)
    name = _process_name("worker")
    telemetry = LogTelemetry(name)
    concurrency = {queue: _concurrency(project, queue) for queue in names}
    broker = hint_broker(project, telemetry, concurrency)
    stop = threading.Event()
    heart = Heart(store=store, name=name, clock=_monotonic, lease=project.settings.lease)
    shift = Shift(
        store=store,
        catalogue=project.catalogue,
        telemetry=telemetry,
        wake=DramatiqHints(broker, telemetry=telemetry).wake,
        worker=name,
        release=release(),
        clock=_monotonic,
        jitter=random.random,
        new_token=lambda: uuid.uuid4().hex,
        stop=stop,
        still_alive=heart.is_beating,
        batch=_batch(store, background, CLAIMED),
    )
    asked, drained, refused = Stop(), threading.Event(), threading.Event()

    def give_up() -> None:
        """The store refuses for good: the worker ends, `bus run` tells and tries again."""
        refused.set()
        asked.ask()

    declare_actors(broker, _work(project, names, shift), telemetry=telemetry, give_up=give_up)
    heart.tend = shift.tend
    heart.start()
    beating = threading.Thread(target=_beat, args=(heart, drained, asked, telemetry), name="heart", daemon=True)
    beating.start()
    on_stop_signals(asked.ask, end_within=DRAIN + timedelta(seconds=5))
    threading.Thread(target=_pass_on, args=(asked, stop), name="stop", daemon=True).start()
    finished = run_worker_loop(broker, stop=asked, telemetry=telemetry, drain_within=DRAIN)
    died = not beating.is_alive()
    drained.set()  # not before: who drains is alive, and what it holds is its own
    beating.join()
    _leave(heart, telemetry, holding=not finished)
    return 0 if finished and not died and not refused.is_set() else 1


def _beat(heart: Heart, drained: threading.Event, asked: Stop, telemetry: LogTelemetry) -> None:
    """A worker whose heart stopped by an error must end: it would never claim again, and look alive."""
    try:
        heart.run(drained)
    except StoreRefuses as error:
        telemetry.event("worker ends: the store refuses", detail=str(error))
    finally:
        asked.ask()


def _pass_on(asked: Stop, stop: threading.Event) -> None:
    """Let batches in work give back what they did not begin; a signal handler may not set an Event itself."""
    asked.wait()
    stop.set()


def _leave(heart: Heart, telemetry: LogTelemetry, *, holding: bool) -> None:
    """Give back what a hanging call keeps from being finished: of this end no delivery is the cause."""
    try:
        if holding:
            actor = Actor(name=heart.name, reason="asked to stop before it was finished")
            heart.store.bury_worker(heart.name, actor=actor, died=False)
        heart.stop()
    except NotAvailable as error:  # the lease lapses by itself
        telemetry.event("store away", detail=str(error))


def _concurrency(project: Project, queue: str) -> int:
    endpoint = project.settings.endpoints.get(queue.removeprefix("send."))
    return endpoint.concurrency if endpoint and queue.startswith("send.") else TRANSFORM_THREADS


def _work(project: Project, queues: Sequence[str], shift: Shift) -> dict[str, Callable[[], None]]:
    """What each queue's hint starts: batches until there is none left or the time is up."""
    steps: dict[str, Callable[[], bool]] = {}
    for queue in queues:
        kind, _, name = queue.partition(".")
        if kind == "transform":
            steps[queue] = partial(transform, queue, shift=shift)
        else:
            endpoint = project.settings.endpoints[name]
            steps[queue] = partial(
                send, Window(endpoint, adapter_or_stand_in(project, endpoint, shift.telemetry)), shift=shift
            )
    return {queue: partial(_work_through, queue, step, shift) for queue, step in steps.items()}


def _work_through(queue: str, step: Callable[[], bool], shift: Shift) -> None:
    until = shift.clock() + BUDGET
    while step():
        if shift.stop.is_set() or shift.clock() > until:
            shift.wake({queue})
            return


def run_relay(project: Project, *, supervised: bool = False) -> int:
    """Resume what is due, unattended or orphaned, until stopped."""
    _require_sound(project, supervised=supervised)
    store = open_store(project)
    name = _process_name("relay")
    telemetry = LogTelemetry(name)
    relay = Relay(
        store=store,
        wake=wake_for(project, telemetry),
        without_hints=Depths(broker_url(project)).empty,
        queues=project.catalogue.queues,
        telemetry=telemetry,
        name=name,
        clock=_monotonic,
        observer=Observer(project.settings.lease),
    )
    stop = threading.Event()
    return _until_stopped([threading.Thread(target=relay.run, args=(stop,), name="relay")], stop)


def run_all(project: Project, *, output: str = "table") -> int:
    """Router, workers and relay of both classes, supervised; with a private broker where the project says so.

    `output` is the option -o of `bus run`, which its processes are given too: they log alike.
    """
    require_sound(project)
    if absent := absent_maps(project.catalogue):
        raise ConfigurationError("\n".join(absent))
    telemetry = LogTelemetry("supervisor")
    for endpoint in project.settings.endpoints.values():
        for text in missing_secrets(endpoint, root=project.root):
            telemetry.event("endpoint lacks a secret: its deliveries are held", endpoint=endpoint.name, detail=text)
    upgrade_store(project).close()
    if project.settings.broker != PRIVATE:
        return _supervise(project, telemetry, output)
    with private_node(project) as node:
        telemetry.event("broker started", port=node.amqp_port)
        return _supervise(project, telemetry, output)


def _supervise(project: Project, telemetry: LogTelemetry, output: str) -> int:
    declare(topology_of(project), broker_url(project))
    supervisor = Supervisor(children_of(project, output), telemetry=telemetry)
    on_stop_signals(supervisor.stop, end_within=DRAIN * 2)
    return 0 if supervisor.run() else 1


def children_of(project: Project, output: str) -> list[Child]:
    """The processes of `bus run`."""

    def child(name: str, *words: str) -> Child:
        argv = (sys.executable, "-m", "bus", "--project", str(project.root), *words, "--supervised", "-o", output)
        return Child(name=name, argv=argv)

    children = []
    for message_class in MessageClass:
        children.append(child(f"router-{message_class}", "router", "--class", str(message_class)))
        children.append(child(f"worker-{message_class}", "worker", "--class", str(message_class)))
    return [*children, child("relay", "relay")]
