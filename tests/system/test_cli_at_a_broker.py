"""`bus topology apply | diff` and `bus publish` as typed, at a real broker with a management API and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from bus.broker.address import read_addresses
from bus.broker.consumer import Consumer
from bus.broker.link import connect
from bus.model.topology import ENGINE
from tests.services import Vhost
from tests.system.a_plant import read

ROOT = Path(__file__).parents[2]
INBOUND = "bus.in.transaction.0"
STEP = "native.step.v1"
MES_PASSWORD = "p@ss/word of the MES"  # of a user that lives as long as the test

_BUS_TOML = """
[bus]
name = "steps"
password = "env:BUS_PASSWORD"

[sites.P1]

[systems.mes]
role = "MES"
sites = ["P1"]
user = "{mes}"
password = "env:MES_PASSWORD"
publishes = ["{type}"]
owner = "it"
support = "line 1"
"""

_STEPS = f"""
from bus import Contract, OrderingKey
from marshmallow import Schema, fields


class StepSchema(Schema):
    order = fields.String(required=True)


CONTRACTS = (
    Contract(
        type="{STEP}", owner="MES", support="line 1", schema=StepSchema, key=OrderingKey("order", "order"),
        identity=("order",),
    ),
)
"""


@dataclass(frozen=True)
class Site:
    """A project in a folder, and the empty vhost it is given."""

    folder: Path
    vhost: Vhost
    mes: str
    """The MES's user at the broker."""

    def type(self, *words: str, management: bool = True, login: bool = True) -> subprocess.CompletedProcess[str]:
        """Type a command; `login`: the broker's URL bears the administrator's, else the bus logs in as itself."""
        parts = urlsplit(self.vhost.amqp_url)
        broker = self.vhost.amqp_url if login else f"amqp://{parts.hostname}:{parts.port}{parts.path}"
        api = urlsplit(self.vhost.management_url)
        user = f"{quote(self.vhost.admin_user)}:{quote(self.vhost.admin_password)}"
        return subprocess.run(
            [sys.executable, "-m", "bus", "--project", str(self.folder), *words],
            env=os.environ
            | {
                "BUS_BROKER": broker,
                "BUS_MANAGEMENT": f"{api.scheme}://{user}@{api.netloc}" if management else "",
                "BUS_STORE": f"sqlite:///{self.folder}/bus.db",
                "BUS_PASSWORD": "of the engine",
                "MES_PASSWORD": MES_PASSWORD,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def differences(self) -> set[tuple[str, str]]:
        """(kind, name) of what `bus topology diff` finds."""
        asked = self.type("topology", "diff", "-o", "json")
        found = {(each["kind"], each["name"]) for each in json.loads(asked.stdout)}
        assert asked.returncode == (1 if found else 0), asked.stderr
        return found

    def headers_of_the_next(self, queue: str = INBOUND) -> Mapping[str, Any]:
        consumer = Consumer(self.vhost.amqp_url, queue)
        try:
            return read(consumer, 1)[0].headers
        finally:
            consumer.close()

    def waiting(self, queue: str = INBOUND) -> int:
        connection = connect(read_addresses(self.vhost.amqp_url), name="a test")
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        finally:
            connection.close()


@pytest.fixture
def site(vhost: Vhost, tmp_path: Path) -> Iterator[Site]:
    mes = f"{vhost.name}-mes"
    files = {
        "bus.toml": _BUS_TOML.format(mes=mes, type=STEP),
        "routes/__init__.py": "ROUTES = ()\n",
        "transformers/__init__.py": "",
        "transformers/steps.py": _STEPS,
    }
    for name, text in files.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    yield Site(tmp_path / "project", vhost, mes)
    login = (vhost.admin_user, vhost.admin_password)
    for user in (ENGINE, mes):
        httpx.delete(f"{vhost.management_url}/api/users/{user}", auth=login, timeout=30)


def test_topology_apply_makes_what_diff_misses_and_a_system_can_publish_then(site: Site) -> None:
    missing = site.differences()
    assert {("exchange", "bus.in"), ("queue", INBOUND), ("user", site.mes)} <= missing

    applied = site.type("topology", "apply", "-o", "json")

    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["users"] == 2
    assert site.differences() == set()
    (site.folder / "step.json").write_text('{"order": "4711"}')
    words = ("publish", str(site.folder / "step.json"), "--type", STEP, "--system", "mes", "--sequence", "7")
    published = site.type(*words, login=False)
    assert published.returncode == 0, published.stderr
    assert "The broker has it" in published.stdout
    assert site.waiting() == 1
    assert site.headers_of_the_next()["sequence"] == 7


def test_topology_apply_twice_changes_nothing_and_repairs_a_right_that_was_widened(site: Site) -> None:
    assert site.type("topology", "apply").returncode == 0
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    at = f"{site.vhost.management_url}/api/permissions/{site.vhost.name}/{site.mes}"
    login = (site.vhost.admin_user, site.vhost.admin_password)
    httpx.put(at, json=rights, auth=login, timeout=30).raise_for_status()
    assert site.differences() == {("permission", site.mes)}

    assert site.type("topology", "apply").returncode == 0

    assert site.differences() == set()


def test_without_the_management_api_queues_are_made_and_what_was_left_is_said(site: Site) -> None:
    applied = site.type("topology", "apply", management=False)

    assert applied.returncode == 0, applied.stderr
    assert "Users and rights were left as they are" in applied.stderr
    compared = site.type("topology", "diff", management=False)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "Not checked: " in compared.stderr
    assert site.waiting() == 0
    assert ("user", site.mes) in site.differences()


def test_what_a_system_may_not_publish_is_refused_by_the_broker_in_a_sentence(site: Site) -> None:
    assert site.type("topology", "apply").returncode == 0
    settings = site.folder / "bus.toml"
    (site.folder / "step.json").write_text('{"order": "4711"}')
    settings.write_text(
        settings.read_text() + '\n[systems.wms]\nrole = "WMS"\nsites = ["P1"]\npublishes = ["x.y.v1"]\n'
    )
    settings.write_text(settings.read_text() + f'user = "{site.mes}"\npassword = "env:MES_PASSWORD"\n')
    settings.write_text(settings.read_text() + 'owner = "it"\nsupport = "line 2"\n')

    refused = site.type(
        "publish", str(site.folder / "step.json"), "--type", STEP, "--system", "wms", login=False
    )  # fmt: skip

    assert refused.returncode == 1
    assert "this user may not publish this" in " ".join(refused.stderr.split())
    assert site.waiting() == 0
