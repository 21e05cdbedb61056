"""What a private RabbitMQ node reads at boot: its configuration, plugins, definitions and cookie, for 3.10 and 4.x."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""What the node takes: the default of RabbitMQ 4, of which 3.10 takes eight times as much.

What is larger than `max_bytes` of bus.toml is recorded with its raw bytes; what is larger than this ends its channel.
"""

_NODE_NAME = "plantbus@localhost"  # need not be unique: every node has a port mapper of its own
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "ERL_LIBS")


@dataclass(frozen=True)
class Ports:
    """The four ports of a node, all on the loopback interface; `management` is used only with the plugin."""

    amqp: int
    management: int
    distribution: int
    epmd: int


def write_node_files(
    folder: Path,
    *,
    ports: Ports,
    definitions: Mapping[str, Any],
    management: bool,
    plugins: Sequence[str] = (),
    configuration: Sequence[str] = (),
) -> None:
    """Write everything the node reads; folders are 0700 and files 0600, the cookie is kept from the first start on."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    enabled = ["rabbitmq_consistent_hash_exchange", *(["rabbitmq_management"] if management else []), *plugins]
    _write_private(folder / "enabled_plugins", f"[{','.join(enabled)}].\n")
    _write_private(folder / "definitions.json", json.dumps(dict(definitions), indent=1))
    lines = [*_configuration(folder, ports, management=management), *configuration]
    _write_private(folder / "rabbitmq.conf", "\n".join(lines) + "\n")
    _keep_cookie(folder / ".erlang.cookie")


def node_environment(folder: Path, *, ports: Ports) -> dict[str, str]:
    """The whole environment of the node and its port mapper: the machine's RabbitMQ settings do not get through."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {
        "HOME": str(folder),  # Erlang takes its cookie from here
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP_BYTES": "0",
        "RABBITMQ_NODENAME": _NODE_NAME,
        "RABBITMQ_DIST_PORT": str(ports.distribution),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),  # does not exist: keeps /etc/rabbitmq out
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),  # does not exist either
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "rabbitmq.pid"),
        # The server replaces the script that starts it, so that the process started is the node itself.
        "RABBITMQ_ALLOW_INPUT": "true",
        # Schedulers bound to cores or spinning while idle take the two cores of a small machine from everybody else.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput +sbwt none +sbwtdcpu none +sbwtdio none",
        # For every Erlang of the boot, the short-lived one that looks for the port mapper included.
        "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }


def _configuration(folder: Path, ports: Ports, *, management: bool) -> list[str]:
    lines = [
        f"listeners.tcp.local = {LOOPBACK}:{ports.amqp}",
        f"load_definitions = {folder}/definitions.json",
        "auth_mechanisms.1 = PLAIN",
        "auth_mechanisms.2 = AMQPLAIN",
        f"max_message_size = {MAX_MESSAGE_BYTES}",
    ]
    if management:
        lines += [f"management.tcp.ip = {LOOPBACK}", f"management.tcp.port = {ports.management}"]
    return lines


def open_private(path: str, flags: int) -> int:
    """An opener for `open` that creates files for this user's eyes only."""
    return os.open(path, flags, 0o600)


def _write_private(path: Path, text: str) -> None:
    with open(path, "w", opener=open_private) as file:
        file.write(text)


def _keep_cookie(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
