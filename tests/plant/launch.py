"""Starts and ends the plant's processes, reads their books, gives them the day's commands."""

import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MODULES = {"erp": "tests.plant.erp", "mes-p100": "tests.plant.mes_p100", "mes-p200": "tests.plant.mes_p200"}


class PlantTrouble(Exception):
    """A system did not start, did not obey, or did not reach a state in time; the text names it."""


class SystemProcess:
    """One system of the plant as a process of its own."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.book_path = folder / f"{name}.db"
        self.log_path = folder / f"{name}.log"
        self.url = ""
        self.control_url = ""
        self._ready = folder / f"{name}.ready"
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise PlantTrouble(f"{self.name} is not running")
        return self._process.pid

    def start(self, *, within: float = 10.0) -> None:
        """Returns when it serves. A second start keeps its book and its port."""
        self._ready.unlink(missing_ok=True)
        port = self.url.rpartition(":")[2] or "0"
        options = ["--port", port, "--book", str(self.book_path), "--ready", str(self._ready)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULES[self.name], *options],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready_or_ended, within=within, what=f"{self.name} serves")
        if not self._ready.exists():
            raise PlantTrouble(f"{self.name} ended at its start: {self.log_path.read_text()[-2000:]}")
        ready = json.loads(self._ready.read_text())
        self.url, self.control_url = ready["url"], ready["control"]

    def stop(self) -> int | None:
        """Ends it cleanly, kills it when it does not end within three seconds; gives its exit code."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            code = self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = None
        return code

    def kill(self) -> None:
        """As a power cut would: no clean end. Start it again with `start()`."""
        os.kill(self.pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def command(self, name: str, **content: Any) -> dict[str, Any]:
        """Give a command, such as `command("lock", order="1000123")`.

        Raises:
            PlantTrouble: the system did not take the command; its own words are in the text.
        """
        return self._talk("POST", name, json.dumps(content).encode())

    def book(self) -> dict[str, Any]:
        """Everything it sent, got and booked."""
        return self._talk("GET", "book")

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Ask the book's file itself, read-only; works on a dead system too, and knows the bodies."""
        with closing(sqlite3.connect(f"file:{self.book_path}?mode=ro", uri=True)) as book:
            book.row_factory = sqlite3.Row
            return [dict(row) for row in book.execute(query, values)]

    def status(self) -> dict[str, Any]:
        return self._talk("GET", "status")

    def wait_until_published(self, *, within: float = 30.0) -> None:
        """Returns when its outbox holds nothing that is not settled."""
        wait_until(
            lambda: not self.status()["publications"].get("pending"),
            within=within,
            what=f"{self.name} has published everything",
        )

    def _is_ready_or_ended(self) -> bool:
        return self._ready.exists() or (self._process is not None and self._process.poll() is not None)

    def _talk(self, method: str, name: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.control_url}/_control/{name}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise PlantTrouble(f"{self.name} refused {name}: {error.read().decode()}") from error
        except OSError as error:
            raise PlantTrouble(f"{self.name} does not listen to {name}: {error}") from error
        return content


@dataclass(frozen=True)
class Secrets:
    """What callers of the plant's systems must present."""

    erp_user: str
    erp_password: str
    mes_p100_token: str
    mes_p200_user: str
    mes_p200_password: str

    def as_environment(self) -> dict[str, str]:
        """The variables both the plant and the bus under test read."""
        return {f"PLANT_{name.upper()}": value for name, value in vars(self).items()}


def new_secrets() -> Secrets:
    return Secrets("PLANTBUS", secrets.token_urlsafe(18), secrets.token_urlsafe(24), "bus", secrets.token_urlsafe(18))


@dataclass(frozen=True)
class Plant:
    erp: SystemProcess
    mes_p100: SystemProcess
    mes_p200: SystemProcess
    secrets: Secrets

    @property
    def systems(self) -> tuple[SystemProcess, SystemProcess, SystemProcess]:
        return (self.erp, self.mes_p100, self.mes_p200)


@contextmanager
def running_plant(
    folder: Path, *, brokers: Mapping[str, str] | None = None, known_secrets: Secrets | None = None
) -> Iterator[Plant]:
    """The three systems, serving; ends exactly these processes.

    `brokers` gives each system its amqp:// address by system name; without one a system publishes nothing.
    """
    given = known_secrets or new_secrets()
    processes = {}
    with ExitStack() as stack:
        for name in MODULES:
            environment = given.as_environment() | {"PLANT_BROKER": (brokers or {}).get(name, "")}
            processes[name] = SystemProcess(name, folder, environment)
            stack.callback(processes[name].stop)
            processes[name].start()
        yield Plant(processes["erp"], processes["mes-p100"], processes["mes-p200"], given)


def wait_until(holds: Callable[[], object], *, within: float, what: str) -> None:
    """Look again and again until it holds.

    Raises:
        PlantTrouble: it did not hold in time.
    """
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise PlantTrouble(f"not within {within:g} s: {what}")
        time.sleep(0.01)
