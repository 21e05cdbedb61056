"""The real services tests run on: one RabbitMQ and one PostgreSQL per run, a fresh vhost or database per test."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx

from bus.bench.postgresql import PostgreSQL as PostgreSQL
from bus.bench.postgresql import private_postgresql
from bus.broker.node import PrivateNode
from bus.broker.passwords import HASHING_ALGORITHM, hash_password
from bus.errors import ConfigurationError

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

postgresql_of_the_run = private_postgresql
