"""Sets the stage for a plant day: folder, broker, plant and `bus run`; takes everything down again."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import select

from bus import bootstrap
from bus.broker.processes import end_what_is_left
from bus.errors import NotAvailable
from bus.project import Project, load_project
from bus.store import tables as t
from tests.plant import marked
from tests.plant.brokers import Broker, given_broker, private_broker
from tests.plant.bus_run import BusRun
from tests.plant.launch import MODULES, ROOT, Plant, running_plant, wait_until
from tests.plant.ledger import Ledger

LOCK = "plant-day.lock"


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Where the day takes place. Empty: a SQLite file in the folder, a private node."""

    folder: Path
    store: str = ""
    broker: str = ""
    management: str = ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything that runs; `environment` is what a command of `bus` needs to find it."""

    folder: Path
    environment: Mapping[str, str]
    project: Project
    broker: Broker
    plant: Plant
    bus: BusRun
    ledger: Ledger

    def write_env(self) -> Path:
        """A file to be sourced by a shell, readable by its owner only."""
        path = self.folder / "env"
        wanted = {name: value for name, value in self.environment.items() if name.startswith(("BUS_", "PLANT_"))}
        del wanted[marked.VARIABLE]
        lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(wanted.items()) if value]
        lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
        with open(path, "w", opener=_private) as file:
            file.write("\n".join(lines) + "\n")
        return path


@contextmanager
def stage(wishes: Wishes, *, say: Callable[[str], None]) -> Iterator[Stage]:
    """Set up, yield, take down in the opposite order; afterwards nothing of it runs.

    Raises:
        NotAvailable: something it needs cannot be had; nothing is left running.
        PlantTrouble: something did not start, or did not end.
    """
    folder = wishes.folder.resolve()
    with ExitStack() as stack:
        stack.enter_context(_folder_of_its_own(folder))
        stack.callback(marked.require_none_left, folder)
        environment = {
            marked.VARIABLE: str(folder),
            "BUS_PROJECT": str(ROOT),
            "BUS_FOLDER": str(folder),
            "BUS_STORE": wishes.store or f"sqlite:///{folder / 'bus.db'}",
            "BUS_BROKER": "",
            "BUS_MANAGEMENT": "",
        }
        stack.enter_context(_variables(environment))
        project = load_project(ROOT).require_sound()
        say("starting a private RabbitMQ node" if not wishes.broker else "making a vhost and users on the broker named")
        broker = stack.enter_context(_broker(project, wishes))
        ledger = stack.enter_context(_fresh_ledger(project))
        say("starting the plant: ERP, MES P100, MES P200")
        plant = stack.enter_context(_plant(folder, broker))
        environment |= _for_the_bus(broker, plant)
        stack.enter_context(_variables(environment))
        say("starting bus run: routers, workers, relay")
        bus = BusRun(folder / "bus.log", os.environ)
        stack.callback(bus.stop)
        bus.start()
        wait_until(lambda: bus.trouble() or _is_at_work(bus, ledger), within=60, what="bus run is at work")
        yield Stage(
            folder=folder,
            environment=dict(os.environ),
            project=project,
            broker=broker,
            plant=plant,
            bus=bus,
            ledger=ledger,
        )


def _broker(project: Project, wishes: Wishes) -> AbstractContextManager[Broker]:
    if wishes.broker:
        return given_broker(project, url=wishes.broker, management=wishes.management)
    return private_broker(project)


def _plant(folder: Path, broker: Broker) -> AbstractContextManager[Plant]:
    return running_plant(folder, brokers={name: broker.url(name) for name in MODULES})


def _for_the_bus(broker: Broker, plant: Plant) -> dict[str, str]:
    return {
        **plant.secrets.as_environment(),
        "PLANT_ERP_ADDRESS": plant.erp.url,
        "PLANT_MES_P100_ADDRESS": f"{plant.mes_p100.url}/b2mml/operations-schedule",
        "PLANT_MES_P200_ADDRESS": f"{plant.mes_p200.url}/orders",
        "BUS_BROKER": broker.url(),
        "BUS_MANAGEMENT": broker.management,
    }


def _is_at_work(bus: BusRun, ledger: Ledger) -> bool:
    """All its workers and a relay hold their leases."""
    holders = [row["name"].partition(":")[0] for row in ledger.rows(select(t.lease.c.name))]
    workers = sum(name.startswith("worker") for name in bus.children())
    return "relay" in holders and holders.count("worker") == workers > 0


@contextmanager
def _fresh_ledger(project: Project) -> Iterator[Ledger]:
    """The store with its tables, in which nothing happened yet."""
    bootstrap.upgrade_store(project).close()
    database = bootstrap.open_database(project)
    ledger = Ledger(database, sorted(project.settings.endpoints))
    try:
        if ledger.rows(select(t.message.c.id).limit(1)):
            raise NotAvailable("the store is not empty, and a plant day needs one of its own: name an empty database")
        yield ledger
    finally:
        database.close()


@contextmanager
def _folder_of_its_own(folder: Path) -> Iterator[None]:
    """The folder, emptied, for this process alone; what an earlier day left running in it is ended."""
    if folder.exists() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise NotAvailable(
            f"{folder} holds something that no plant day put there, and it would be emptied: name another"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with open(folder / LOCK, "a+", opener=_private) as lock:
        _take(lock, folder)
        marked.end_left(folder)
        end_what_is_left(folder / "rabbitmq")
        for entry in folder.iterdir():
            if entry.name == LOCK:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield


def _take(lock: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise NotAvailable(f"a plant day is going on in {folder}: end it (Ctrl-C there) first") from error


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """These variables in the environment of this process, as long as the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
