"""RabbitMQ's own command beside a private node: what an administrator asks and orders there."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from bus.broker.installation import provide_rabbitmq
from bus.broker.node import PrivateNode

_NEEDED = ("HOME", "PATH", "LANG", "ERL_EPMD_PORT", "ERL_EPMD_ADDRESS", "ERL_AFLAGS", "RABBITMQ_NODENAME")
_LIMIT = 60.0  # seconds


def node_command(node: PrivateNode, *words: str) -> str:
    """What `rabbitmqctl` says to these words."""
    environ = Path(f"/proc/{node.pid}/environ").read_text(errors="replace").split("\0")
    told = dict(entry.split("=", 1) for entry in environ if "=" in entry)
    asked = subprocess.run(
        [provide_rabbitmq().server.with_name("rabbitmqctl"), "-q", *words],
        env={name: told[name] for name in _NEEDED if name in told}
        | {"RABBITMQ_CONF_ENV_FILE": str(node.folder / "rabbitmq-env.conf")},
        cwd=node.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert asked.returncode == 0, f"rabbitmqctl {shlex.join(words)}: {asked.stdout}{asked.stderr}"
    return asked.stdout


def alarms(node: PrivateNode) -> str:
    """The alarms for which the node takes nothing from publishers now, in Erlang's words; `[]`: none."""
    return node_command(node, "eval", "rabbit_alarm:get_alarms().").strip()
