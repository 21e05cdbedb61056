"""What makes a system of the plant a process: options, ports, ready file, control desk, clean end."""

import argparse
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pika
from pika.exceptions import AMQPError

from tests.plant.book import Book
from tests.plant.faults import Faults
from tests.plant.listener import Answer, Listener, Request, json_answer
from tests.plant.publisher import Publisher
from tests.plant.wire import compose_raw

Command = Callable[[Mapping[str, Any]], object]
B = TypeVar("B", bound=Book)


class System(Protocol):
    """An ERP or a MES behind its two ports."""

    def answer(self, request: Request) -> Answer: ...
    def commands(self) -> Mapping[str, Command]: ...
    def open_book(self) -> Mapping[str, object]: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


@dataclass
class Parts:
    """What every system is given. `password_rotated` makes it refuse the login it knew."""

    name: str
    site: str
    publisher: Publisher
    faults: Faults
    stopping: threading.Event
    password_rotated: bool = False


def run(name: str, *, site: str, open_book: Callable[[Path], B], build: Callable[[B, Parts], System]) -> None:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    options = _options(name)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    book = open_book(options.book)
    publisher = Publisher(book, options.broker or os.environ.get("PLANT_BROKER"))
    parts = Parts(name, site, publisher, Faults(), stopping)
    system = build(book, parts)
    public = Listener(options.port, system.answer)
    control = Listener(0, ControlDesk(system, book, parts, public).answer)

    publisher.start()
    system.start()
    public.open()
    control.open()
    _write_atomically(options.ready, {"url": public.url, "control": control.url, "pid": os.getpid()})
    stopping.wait()
    public.close()
    control.close()
    system.stop()
    publisher.stop()
    book.close()


def required_environment(name: str) -> str:
    """A secret of this system.

    Raises:
        SystemExit: the variable is not set.
    """
    value = os.environ.get(name)
    if not value:
        raise SystemExit(f"{name} is not set; it holds what callers of this system must present.")
    return value


class ControlDesk:
    """Takes the day's commands on a port of its own, so that a system that is down still listens to them."""

    def __init__(self, system: System, book: Book, parts: Parts, public: Listener) -> None:
        self._system = system
        self._book = book
        self._parts = parts
        self._public = public
        self._commands: dict[str, Command] = {
            "faults": lambda command: asdict(parts.faults.order(command)),
            "clear-faults": self._clear_faults,
            "password": self._password,
            "publish": self._publish,
            "down": self._down,
            "up": self._up,
            **system.commands(),
        }

    def answer(self, request: Request) -> Answer:
        name = request.path.removeprefix("/_control/")
        if request.method == "GET" and name == "book":
            return json_answer(self._system.open_book())
        if request.method == "GET" and name == "status":
            return json_answer(self._status())
        if request.method == "POST" and name in self._commands:
            return self._obey(self._commands[name], request)
        return json_answer({"error": f"{request.method} {request.path}: known are {sorted(self._commands)}"}, 404)

    def _obey(self, command: Command, request: Request) -> Answer:
        try:
            content = json.loads(request.body or b"{}")
            return json_answer(command(content))
        except (KeyError, TypeError, ValueError) as error:
            return json_answer({"error": f"{type(error).__name__}: {error}"}, 400)

    def _status(self) -> dict[str, object]:
        publisher = self._parts.publisher
        return {
            "open": self._public.is_open,
            "broker": {"connected": publisher.is_connected, "trouble": publisher.trouble},
            "publications": self._book.publication_counts(),
            "faults": self._parts.faults.listing(),
        }

    def _clear_faults(self, _: Mapping[str, Any]) -> object:
        self._parts.faults.clear()
        return {}

    def _password(self, command: Mapping[str, Any]) -> object:
        self._parts.password_rotated = bool(command["rotated"])
        return {"rotated": self._parts.password_rotated}

    def _publish(self, command: Mapping[str, Any]) -> object:
        publication = compose_raw(command, system=self._parts.name, site=self._parts.site, now=datetime.now(UTC))
        try:
            pika.BasicProperties(**publication.properties).encode()
        except (AMQPError, AssertionError) as error:
            raise ValueError(f"AMQP cannot carry these properties: {error}") from error
        self._book.write_publications(*[publication] * int(command.get("times", 1)))
        self._parts.publisher.wake()
        return {"routing_key": publication.routing_key, "message_id": publication.properties.get("message_id")}

    def _down(self, command: Mapping[str, Any]) -> object:
        self._public.go_down()
        if "seconds" in command:
            back = threading.Timer(float(command["seconds"]), self._public.open)
            back.daemon = True
            back.start()
        return {"open": False}

    def _up(self, _: Mapping[str, Any]) -> object:
        self._public.open()
        return {"open": True}


def _options(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m tests.plant.{name.replace('-', '_')}")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--book", type=Path, required=True, help="the SQLite file of its book")
    parser.add_argument("--ready", type=Path, required=True, help="written when it serves")
    parser.add_argument("--broker", help="amqp://…; PLANT_BROKER keeps the password out of the process list")
    return parser.parse_args()


def _write_atomically(path: Path, content: Mapping[str, object]) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(content))
    unfinished.replace(path)
