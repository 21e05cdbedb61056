"""The composition root: the one place where settings, store, broker, workers and adapters are put together."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit, urlunsplit

from bus.broker.address import read_addresses
from bus.broker.node import PrivateNode
from bus.broker.passwords import hash_password
from bus.connectors.amqp import AmqpAdapter
from bus.connectors.http_adapter import http_adapter
from bus.connectors.unopened import UnopenedAdapter
from bus.errors import BusError, ConfigurationError, NotAvailable, SecretUnavailable
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.model.topology import ENGINE, VHOST, definitions
from bus.ports import Adapter, AdapterFactory, Telemetry
from bus.private_files import make_private_folder
from bus.project import Project, topology_of
from bus.secret_references import is_reference, resolve_secret, revealed
from bus.settings import PRIVATE
from bus.store import schema
from bus.store.engine import CONNECTIONS, Database
from bus.store.sqlstore import SqlStore
from bus.workers.broker import HintBroker
from bus.workers.hints import DramatiqHints

_CONNECTORS: Mapping[str, AdapterFactory] = {"http": http_adapter, "amqp": AmqpAdapter}


def release() -> str:
    """The version of the bus, as recorded with attempts."""
    try:
        return version("plantbus")
    except PackageNotFoundError:
        return "unknown"


# --- the store -------------------------------------------------------------------------------------------------------


def open_database(project: Project) -> Database:
    """The project's database, whatever state it is in."""
    return Database(revealed(project.settings.store, root=project.root))


def open_store(project: Project, *, background: bool = False, connections: int = 0) -> SqlStore:
    """The store for one of the bus's own processes, with this release's tables; `background`: see Database.

    `connections`: how many are wanted at once at least.

    Raises:
        NotAvailable: not there, not reachable, or its tables are old; with the command that mends it.
    """
    url = revealed(project.settings.store, root=project.root)
    database = Database(url, pool_size=max(connections, CONNECTIONS), background=background, plans_once=True)
    schema.require_current(database)
    return SqlStore(database)


def upgrade_store(project: Project) -> SqlStore:
    """The project's store, its tables made or brought up to date."""
    database = open_database(project)
    schema.upgrade(database, lease=project.settings.lease)
    return SqlStore(database)


# --- the broker ------------------------------------------------------------------------------------------------------


def broker_url(project: Project) -> str:
    """The AMQP URL with the engine's login.

    Raises:
        NotAvailable: the private node does not run.
        ConfigurationError: the password's reference cannot be read.
    """
    settings = project.settings
    if settings.broker == PRIVATE:
        return str(_private_node(project)["amqp"])
    nodes = revealed(settings.broker, root=project.root).split(";")
    return ";".join(_with_login(node.strip(), project) for node in nodes if node.strip())


def _with_login(url: str, project: Project) -> str:
    """The URL of one node, with the engine's user and password where it names none; its files as absolute paths."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # read_addresses says what is wrong, without the password
    parts = parts._replace(query=_with_absolute_files(parts.query, project.root))
    options = parse_qs(parts.query)
    if parts.password is not None or not (project.settings.password or "auth_mechanism" in options):
        return urlunsplit(parts)
    user, host = parts.username or ENGINE, parts.netloc.rpartition("@")[2]
    if options.get("auth_mechanism") == ["external"]:  # the certificate logs in
        return urlunsplit(parts._replace(netloc=f"{user}@{host}"))
    password = quote(resolve_secret(project.settings.password, root=project.root).reveal(), safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def _with_absolute_files(query: str, root: Path) -> str:
    """Files of certificates and keys are relative to the project, like those of secrets."""
    given = parse_qsl(query, keep_blank_values=True)
    names = ("cacertfile", "certfile", "keyfile")
    return urlencode([(name, str(root / value) if name in names and value else value) for name, value in given])


def management_url(project: Project) -> str:
    """The management API with the login of an administrator; empty where none is configured."""
    if project.settings.broker == PRIVATE:
        return ""
    url = revealed(project.settings.management, root=project.root)
    address, mark, query = url.partition("?")
    return f"{address}{mark}{_with_absolute_files(query, project.root)}"


def _node_file(project: Project) -> Path:
    return project.settings.folder / "broker.json"


def _private_node(project: Project) -> Mapping[str, object]:
    try:
        found = json.loads(_node_file(project).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not _listens(int(found.get("port", 0))):
        raise NotAvailable(
            f"the private broker of {project.root} is not running; start it with `bus run` (or `make demo KEEP=1`), "
            "or name another broker in bus.toml or BUS_BROKER"
        )
    return found


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def ensure_secrets(project: Project) -> None:
    """Generate the passwords a private node needs and that nobody wrote yet; readable by their owner only."""
    for user in topology_of(project).users:
        kind, _, name = user.password.partition(":")
        path = project.root / name
        if kind == "file" and not path.exists():
            make_private_folder(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24))


@contextmanager
def private_node(project: Project) -> Iterator[PrivateNode]:
    """The project's own RabbitMQ node, with its users, while the block runs."""
    ensure_secrets(project)
    make_private_folder(project.settings.folder)
    topology = topology_of(project)
    passwords = {user.name: resolve_secret(user.password, root=project.root).reveal() for user in topology.users}
    hashes = {name: hash_password(password) for name, password in passwords.items()}
    node = PrivateNode(
        project.settings.folder / "rabbitmq", definitions=definitions(topology, vhost=VHOST, password_hash=hashes)
    )
    with node:
        url = f"amqp://{ENGINE}:{quote(passwords[ENGINE], safe='')}@127.0.0.1:{node.amqp_port}/{VHOST}"
        path = _node_file(project)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"amqp": url, "port": node.amqp_port, "pid": node.pid}, file)
        try:
            yield node
        finally:
            path.unlink(missing_ok=True)


# --- hints -----------------------------------------------------------------------------------------------------------


def hint_broker(project: Project, telemetry: Telemetry, concurrency: Mapping[str, int]) -> HintBroker:
    topology = topology_of(project)
    arguments = {queue.name: queue.arguments for queue in topology.queues if queue.name in project.catalogue.queues}
    return HintBroker(
        read_addresses(broker_url(project)), queue_arguments=arguments, concurrency=concurrency, telemetry=telemetry
    )


def wake_for(project: Project, telemetry: Telemetry) -> Callable[[Collection[str]], None]:
    """What puts hints on queues; it never raises for a broker that is away, the relay heals."""
    return DramatiqHints(hint_broker(project, telemetry, {}), telemetry=telemetry).wake


# --- soundness -------------------------------------------------------------------------------------------------------


def complaints_of(project: Project) -> tuple[str, ...]:
    """What every process refuses to start with, adapters included; each with its file and place.

    A secret that is not there yet is not among it. `bus check` and `bus run` ask for absent value maps besides.
    """
    found = list(project.complaints)
    found += filter(None, (_adapter_complaint(project, each) for each in project.settings.endpoints.values()))
    return tuple(found)


def _adapter_complaint(project: Project, endpoint: Endpoint) -> str:
    try:
        adapter_of(project, endpoint).close()
    except (SecretUnavailable, NotAvailable):
        # No fault of the project, and no reason to stop all others: what goes there is held.
        if endpoint.adapter in _CONNECTORS and is_reference(endpoint.address):
            # Its options are judged all the same.
            return _adapter_complaint(project, replace(endpoint, address=f"{endpoint.adapter}s://address.invalid/"))
    except ConfigurationError as error:
        text = str(error)
        return text if "bus.toml" in text else f"bus.toml [endpoints.{endpoint.name}]: {text}"
    return ""


def require_sound(project: Project) -> None:
    """Refuse to start with a project that does not fit together, its adapters included.

    Raises:
        ConfigurationError: every complaint, a line each.
    """
    if complaints := complaints_of(project):
        raise ConfigurationError("\n".join(complaints))


# --- adapters --------------------------------------------------------------------------------------------------------


def adapter_of(project: Project, endpoint: Endpoint) -> Adapter:
    """Make the adapter of an endpoint; it calls nobody yet.

    Raises:
        SecretUnavailable: its address is a reference that leads nowhere.
        NotAvailable: it needs the private broker's address, and that does not run.
        ConfigurationError: no such adapter, or it does not understand its address or options.
    """
    factory = _adapter_factory(endpoint)
    address = endpoint.address
    options = _with_absolute_paths(endpoint.options, project.root)
    if address == "broker":
        options["url"] = "broker"
        address = "amqp://broker"
    address = revealed(address, root=project.root)

    def secret(name: str) -> Secret:
        reference = str(options[name])
        if reference == "broker":
            return Secret(reference, broker_url(project))
        return resolve_secret(reference, root=project.root)

    try:
        return factory(replace(endpoint, address=address, options=options), secret=secret)
    except BusError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a project's code; its text may quote a secret
        what = f"making the adapter {endpoint.adapter!r} raised {type(error).__name__}"
        raise ConfigurationError(f"bus.toml [endpoints.{endpoint.name}]: {what}") from None


def _with_absolute_paths(options: Mapping[str, object], root: Path) -> dict[str, object]:
    """Files of TLS are relative to the project; without a certificate a `key` is no file, but the adapter's own."""
    names = ("ca_file", "certificate", "key") if "certificate" in options else ("ca_file",)
    files = {name: str(root / value) for name in names if isinstance(value := options.get(name), str) and value}
    return {**options, **files}


def adapter_or_stand_in(project: Project, endpoint: Endpoint, telemetry: Telemetry) -> Adapter:
    """The adapter; where it cannot be made, one that holds what goes there, so that all others are served."""
    try:
        return adapter_of(project, endpoint)
    except (ConfigurationError, NotAvailable) as error:
        telemetry.event("endpoint cannot be opened", endpoint=endpoint.name, detail=str(error))
        return UnopenedAdapter(str(error))


def _adapter_factory(endpoint: Endpoint) -> AdapterFactory:
    if endpoint.adapter in _CONNECTORS:
        return _CONNECTORS[endpoint.adapter]
    module_name, colon, class_name = endpoint.adapter.partition(":")
    if not colon or not module_name.startswith("adapters."):
        raise ConfigurationError(
            f"bus.toml [endpoints.{endpoint.name}]: adapter {endpoint.adapter!r} is neither one of "
            f"{', '.join(_CONNECTORS)} nor adapters.MODULE:CLASS"
        )
    try:
        found: AdapterFactory = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # whatever a project's file raises is told with its place
        raise ConfigurationError(
            f"bus.toml [endpoints.{endpoint.name}]: adapter {endpoint.adapter!r}: {type(error).__name__}: {error}"
        ) from error
    return found
