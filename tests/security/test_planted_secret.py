"""Planted secrets: a whole run with failures of every kind, then each secret is searched for wherever anybody looks."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from sqlalchemy import func, select

from bus.client import Fact, connect
from bus.store import schema
from bus.store import tables as t
from bus.store.engine import Database
from bus.workers import child
from tests.security.parrot import Parrot
from tests.services import PostgreSQL, RabbitMQ, Vhost
from tests.system.running_bus import until

ROOT = Path(__file__).resolve().parents[2]
PLACES = (
    *("engine", "mes", "feed", "store", "management", "basic", "token", "query", "redirected", "untrusted"),
    *("unreachable", "login", "wrong", "malformed", "constructor", "other-broker", "other-store", "other-management"),
)
SECRETS = {place: f'S3cret/{place}@"<&%é;' for place in PLACES}

ENDPOINTS: Mapping[str, tuple[str, str]] = {
    # name: (address, options)
    "basic": ('"http://{parrot}/422"', 'user = "bus", password = "file:secrets/basic"'),
    "token": ('"http://{parrot}/401"', 'token = "env:SECRET_TOKEN"'),
    "query": ('"env:QUERY_ADDRESS"', ""),
    "redirected": ('"http://{parrot}/302"', 'token = "env:SECRET_REDIRECTED"'),
    "untrusted": ('"env:UNTRUSTED_ADDRESS"', ""),
    "unreachable": ('"env:UNREACHABLE_ADDRESS"', ""),
    "login": ('"env:LOGIN_ADDRESS"', ""),
    "feed": ('"amqp://{broker}"', 'user = "{vhost}-feed", password = "env:SECRET_FEED", exchange = "none"'),
    "wrong": ('"amqp://{broker}"', 'user = "{vhost}-feed", password = "env:SECRET_WRONG"'),
    "malformed": ('"amqp://{broker}"', 'url = "env:MALFORMED_URL"'),
    "constructor": ('"http://{parrot}/200"', 'password = "env:SECRET_CONSTRUCTOR"'),
}

ADAPTERS = {"constructor": "adapters.leaky:Leaky", **dict.fromkeys(("feed", "wrong", "malformed"), "amqp")}

BUS_TOML = """
[bus]
name = "planted"
broker = "env:BROKER_URL"
management = "env:MANAGEMENT_URL"
store = "env:STORE_URL"
password = "env:SECRET_ENGINE"

[sites.P1]

[systems.mes]
role = "MES"
sites = ["P1"]
user = "{vhost}-mes"
password = "env:SECRET_MES"
publishes = ["test.step.v1"]
owner = "it"
support = "line 1"

[systems.books]
role = "ERP"
sites = ["P1"]
user = ""
owner = "it"
support = "desk"
"""

ENDPOINT = """
[endpoints.{name}]
system = "books"
adapter = "{adapter}"
address = {address}
timeout = 5
visible_after = 5
options = {{ {options} }}
"""

LEAKY = """
class Leaky:
    def __init__(self, endpoint, *, secret):
        raise ValueError(secret("password").reveal())
"""

STEPS = """
from marshmallow import Schema, fields

from bus import Contract, OrderingKey


class Step(Schema):
    order = fields.String(required=True)
    to = fields.String(required=True)


CONTRACTS = (
    Contract(type="test.step.v1", owner="MES", support="line 1", schema=Step, key=OrderingKey("order", "order")),
)
"""

ROUTES = """
from datetime import timedelta

from bus import RetryPolicy, Route, field, on

ONCE = RetryPolicy(max_attempts=2, first=timedelta(milliseconds=10), jitter=0.0)
ROUTES = tuple(
    Route(name=f"steps-to-{{name}}", when=on("test.step.v1") & (field("to") == name), to=name, retry=ONCE)
    for name in {names}
)
"""


@dataclass
class Planted:
    """The project, its environment, and everything that anybody could have looked at."""

    folder: Path
    environ: dict[str, str]
    publisher_url: str
    database: Database
    said: dict[str, bytes] = field(default_factory=dict)

    def type(self, *commands: Sequence[str], what: str, **environ: str) -> list[dict[str, Any]]:
        """Type them, in each form and with the whole story of errors."""
        every = [
            ["--project", str(self.folder), "--debug", *words, "-o", form]
            for words in commands
            for form in ("table", "json")
        ]
        every = [["--debug", *(w for w in words if w != "--debug")] for words in every]
        typed = subprocess.run(
            [sys.executable, "-m", "tests.security.typed"],
            input=json.dumps(every).encode(),
            env=self.environ | environ,
            cwd=ROOT,
            capture_output=True,
            timeout=300,
        )
        assert typed.returncode == 0, typed.stderr.decode()
        self.said[f"commands {what}"] = typed.stdout + typed.stderr
        answers = [json.loads(line) for line in typed.stdout.splitlines()]
        self.said[f"output of commands {what}"] = "".join(each["output"] for each in answers).encode()
        return answers

    def process(self, *words: str, log: str, **environ: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bus", "--project", str(self.folder), "--debug", *words]
        with open(self.folder / log, "wb") as file:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command],
                env=self.environ | environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def states(self) -> dict[str, str]:
        with self.database.read() as connection:
            return dict(connection.execute(select(t.delivery.c.destination, t.delivery.c.state)).all())

    def endpoints_down(self) -> set[str]:
        with self.database.read() as connection:
            return set(connection.execute(select(t.endpoint.c.name).where(t.endpoint.c.state != "open")).scalars())


DEAD_OR_IN_DOUBT = {"basic", "query"}
DOWN = set(ENDPOINTS) - DEAD_OR_IN_DOUBT


def plant(folder: Path, vhost: Vhost, store_url: str, parrot: Parrot) -> Planted:
    """Users with the secrets at the broker, a project that refers to all of them, and a store with its tables."""
    broker = urlsplit(vhost.amqp_url).netloc.rpartition("@")[2] + f"/{vhost.name}"
    management = urlsplit(vhost.management_url).netloc
    for user, place, tags in (("feed", "feed", ""), ("admin", "management", "administrator")):
        httpx.put(
            f"{vhost.management_url}/api/users/{vhost.name}-{user}",
            json={"password": SECRETS[place], "tags": tags},
            auth=(vhost.admin_user, vhost.admin_password),
        ).raise_for_status()
    for user, rights in (("feed", ""), ("admin", ".*")):
        httpx.put(
            f"{vhost.management_url}/api/permissions/{vhost.name}/{vhost.name}-{user}",
            json={"configure": rights, "write": ".*", "read": rights},
            auth=(vhost.admin_user, vhost.admin_password),
        ).raise_for_status()
    safe = {place: quote(secret, safe="") for place, secret in SECRETS.items()}
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BUS_")},
        **{f"SECRET_{place.upper()}": secret for place, secret in SECRETS.items()},
        "BROKER_URL": f"amqp://{vhost.name}-admin:{safe['management']}@{broker}",
        "MANAGEMENT_URL": f"http://{vhost.name}-admin:{safe['management']}@{management}",
        "STORE_URL": store_url.replace("://postgres@", f"://postgres:{safe['store']}@"),
        "QUERY_ADDRESS": f"http://{parrot.address}/500?sap-client=1&key={safe['query']}",
        "UNTRUSTED_ADDRESS": f"https://{parrot.address}/200?key={safe['untrusted']}",
        "UNREACHABLE_ADDRESS": f"http://127.0.0.1:1/200?key={safe['unreachable']}",
        "LOGIN_ADDRESS": f"http://bus:{safe['login']}@{parrot.address}/200",
        "MALFORMED_URL": f"amqp://feed:{SECRETS['malformed']}@{broker}",
        "COLUMNS": "200",
    }
    texts = {
        "bus.toml": BUS_TOML.format(vhost=vhost.name)
        + "".join(
            ENDPOINT.format(
                name=name,
                adapter=ADAPTERS.get(name, "http"),
                address=address.format(parrot=parrot.address, broker=broker),
                options=options.format(vhost=vhost.name),
            )
            for name, (address, options) in ENDPOINTS.items()
        ),
        "transformers/__init__.py": "",
        "transformers/steps.py": STEPS,
        "routes/__init__.py": "",
        "routes/steps.py": ROUTES.format(names=list(ENDPOINTS)),
        "adapters/__init__.py": "",
        "adapters/leaky.py": LEAKY,
        "secrets/basic": SECRETS["basic"] + "\n",
    }
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "secrets/basic").chmod(0o600)
    database = Database(store_url)
    schema.upgrade(database)
    publisher = f"amqp://{vhost.name}-mes:{safe['mes']}@{broker}"
    return Planted(folder, environ, publisher, database)


def spellings(place: str) -> Iterator[bytes]:
    """How a secret may be written; its middle alone would give most of it away, too."""
    secret = SECRETS[place]
    for text in (secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        yield text.encode()
    yield json.dumps(secret, ensure_ascii=False)[1:-1].encode()
    yield f"S3cret/{place}".encode()
    yield f"S3cret%2F{place}".encode()
    for user in ("bus", "feed"):
        yield base64.b64encode(f"{user}:{secret}".encode())[8:-4]
    yield base64.b64encode(secret.encode())[:-4]


def found(where: Mapping[str, bytes]) -> list[str]:
    """Each secret that stands somewhere: which, and where."""
    return sorted(
        f"{place} in {name}: …{text[max(text.find(spelled) - 200, 0) : text.find(spelled) + 40]!r}"
        for name, text in where.items()
        for place in SECRETS
        for spelled in set(spellings(place))
        if spelled in text
    )


READING = [
    *(["status"], ["status", "--verify"], ["doctor"], ["check"], ["store", "info"], ["store", "upgrade"]),
    *(["route", "list"], ["contract", "list"], ["contract", "show", "test.step.v1"]),
    *(["topology", "show"], ["topology", "diff"], ["message", "list"], ["message", "list", "--state", "invalid"]),
    *(["message", "trace", "1"], ["dead", "list"], ["doubt", "list"], ["lane", "list"], ["endpoint", "list"]),
    *(["endpoint", "show", name] for name in ENDPOINTS),
    *([noun, "show", str(number)] for noun in ("message", "dead", "doubt") for number in range(1, len(ENDPOINTS) + 1)),
    ["message", "show", "R1"],
]


@pytest.mark.timeout(600)
def test_no_planted_secret_is_found_wherever_anybody_looks(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    if not rabbitmq.is_private:
        pytest.skip("it makes a user of the engine's own name")
    with rabbitmq.fresh_vhost() as vhost, postgresql.fresh_database() as store_url, Parrot() as parrot:
        planted = plant(tmp_path / "project", vhost, store_url, parrot)
        planted.type(["topology", "apply"], what="that make the topology")
        form = {"router": "table", "worker": "json", "relay": "json"}
        parts = [
            planted.process(role, "--supervised", "-o", form[role], log=f"{role}.log")
            for role in ("router", "worker", "relay")
        ]
        try:
            publish_steps(planted)
            assert until(lambda: set(planted.states()) == set(ENDPOINTS))
            assert until(lambda: planted.endpoints_down() >= DOWN), planted.endpoints_down()
            assert until(lambda: all(planted.states()[each] in ("DEAD", "IN_DOUBT") for each in DEAD_OR_IN_DOUBT))
            planted.said["what the processes are called"] = command_lines()
            answers = planted.type(*READING, what="that read")
        finally:
            for part in parts:
                part.send_signal(signal.SIGTERM)
            for part in parts:
                part.wait(60)
        type_with_everything_wrong(planted, vhost)
        for log in planted.folder.glob("*.log"):
            planted.said[log.name] = log.read_bytes()
        planted.said |= rows_of(planted.database)
        planted.database.close()

    assert {each["code"] for each in answers} <= {0, 1, 2}
    assert all(planted.said[f"{role}.log"] for role in ("router", "worker"))
    assert found({"what was planted": "".join(SECRETS.values()).encode()})  # the search itself finds them
    assert "\n".join(found(planted.said)) == ""


def publish_steps(planted: Planted) -> None:
    """One for each endpoint, and one that is invalid."""
    facts = [
        *(Fact(type="test.step.v1", body={"order": name, "to": name}, message_id=name) for name in ENDPOINTS),
        Fact(type="test.step.v1", body={"order": "nowhere"}, message_id="invalid"),
    ]
    with connect(planted.publisher_url, system="mes", site="P1") as line:
        assert line.publish_many(facts) == [None] * len(facts)


def command_lines() -> bytes:
    """Of every process of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue  # it ended meanwhile
    return b"\n".join(lines)


def rows_of(database: Database) -> dict[str, bytes]:
    """Every row of every table, as text."""
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(t.attempt)).scalar_one() >= 2
        return {
            f"table {name}": b"\n".join(
                value if isinstance(value, bytes) else str(value).encode()
                for row in connection.execute(select(table))
                for value in row
            )
            for name, table in t.metadata.tables.items()
        }


def type_with_everything_wrong(planted: Planted, vhost: Vhost) -> None:
    """Broker, store and management in turn: away, refused, no such vhost or database, and no address at all."""
    broker, store = urlsplit(planted.environ["BROKER_URL"]), planted.environ["STORE_URL"]
    asked = [["doctor"], ["status"], ["topology", "diff"], ["topology", "apply"], ["endpoint", "show", "feed"]]
    host = broker.netloc.rpartition("@")[2]
    raw, safe = SECRETS["other-broker"], quote(SECRETS["other-broker"], safe="")
    for number, url in enumerate(
        (
            f"amqp://bus:{safe}@127.0.0.1:1/x",
            f"amqp://bus:{safe}@{host}/{vhost.name}",
            f"amqps://bus:{safe}@{host}/{vhost.name}",
            f"amqp://bus:{raw}@{host}/{vhost.name}",
            f"amqp://bus:{safe}@{host}:{safe}/x;amqp://bus:{raw}@x",
            f"bus:{raw}@{host}",
        )
    ):
        planted.type(*asked, what=f"at broker {number}", BUS_BROKER=url)
        planted.process("router", "-o", ("json", "table")[number % 2], log=f"broker-{number}.log", BUS_BROKER=url).wait(
            60
        )
    raw, safe = SECRETS["other-store"], quote(SECRETS["other-store"], safe="")
    for number, url in enumerate(
        (
            f"postgresql://bus:{safe}@127.0.0.1:1/x",
            store.replace(quote(SECRETS["store"], safe=""), safe).replace("://postgres", "://nobody-known"),
            f"postgresql://bus:{raw}@127.0.0.1/x",
            f"postgresql://bus@127.0.0.1:{safe}/x",
            f"mysql://bus:{safe}@127.0.0.1/x",
            f"postgresql://bus@127.0.0.1:1/x?password={safe}",
            f"postgresql://bus@127.0.0.1:1/x?passwort={safe}",
        )
    ):
        planted.type(*asked, ["store", "info"], ["store", "upgrade"], what=f"at store {number}", BUS_STORE=url)
    raw, safe = SECRETS["other-management"], quote(SECRETS["other-management"], safe="")
    management = urlsplit(planted.environ["MANAGEMENT_URL"]).netloc.rpartition("@")[2]
    for number, url in enumerate(
        (
            f"http://bus:{safe}@127.0.0.1:1",
            f"http://bus:{safe}@{management}",
            f"https://bus:{safe}@{management}",
            f"http://bus:{raw}@{management}",
            f"http://{management}:{safe}",
        )
    ):
        planted.type(*asked, what=f"at management {number}", BUS_MANAGEMENT=url)
