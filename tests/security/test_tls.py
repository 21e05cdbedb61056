"""TLS to RabbitMQ, PostgreSQL and targets with real certificates: names are checked, a refusal says what to do."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bus.bootstrap import adapter_of, broker_url
from bus.broker.address import read_addresses
from bus.broker.link import connect, drop
from bus.broker.management import Management
from bus.broker.node import PrivateNode
from bus.broker.node_files import LOOPBACK
from bus.connectors.amqp import AmqpAdapter
from bus.connectors.amqp_line import Line, Target
from bus.connectors.deadline import Deadline
from bus.connectors.http import HttpConnector
from bus.connectors.http_adapter import http_adapter
from bus.connectors.http_credentials import nobody
from bus.errors import (
    BrokerUnavailable,
    ConfigurationError,
    EndpointDown,
    NotAvailable,
    SecretUnavailable,
    StoreUnavailable,
)
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.project import load_project
from bus.store.engine import Database
from bus.store.postgresql_tls import is_unencrypted
from bus.tls import TlsFiles, client_context
from tests.security.authority import Authority, Certificate
from tests.security.tls_postgresql import DATABASE, TlsServer, programs, tls_postgresql
from tests.services import definitions_with_user
from tests.system.running_bus import a_native_step, running_bus

USER = "plantbus"


@dataclass
class Papers:
    """Two authorities, of which servers trust the first, and certificates to log in with."""

    folder: Path
    ours: Authority
    others: Authority
    made: dict[str, Certificate] = field(default_factory=dict)

    def certificate(self, name: str) -> Certificate:
        """`plantbus`: good; `stranger`: nobody's login; `expired`; `foreign`: of the authority nobody trusts."""
        if name not in self.made:
            authority = self.others if name == "foreign" else self.ours
            days = -1 if name == "expired" else 2
            self.made[name] = authority.certificate(USER if name in ("expired", "foreign") else name, days=days)
        return self.made[name]

    def options(self, name: str, *, ca_file: Path | None = None) -> str:
        own = self.certificate(name)
        return urlencode({"cacertfile": ca_file or self.ours.ca_file, "certfile": own.certificate, "keyfile": own.key})


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    return Papers(folder, Authority(folder, "ours"), Authority(folder, "others"))


# --- RabbitMQ --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TlsBroker:
    node: PrivateNode
    port: int
    management_port: int
    papers: Papers

    def url(self, options: str = "", *, host: str = "localhost", user: str = USER) -> str:
        return f"amqps://{user}:first-password@{host}:{self.port}/?{options}"


@pytest.fixture(scope="module")
def broker(installed_rabbitmq: None, papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    """A node that takes TLS with client certificates only, besides its plain port; EXTERNAL logs in by common name."""
    own = papers.ours.certificate("localhost", names="DNS:localhost")
    with contextlib.ExitStack() as held:
        ports = [held.enter_context(socket.create_server((LOOPBACK, 0))).getsockname()[1] for _ in range(2)]
    files = {"cacertfile": papers.ours.ca_file, "certfile": own.certificate, "keyfile": own.key}
    configuration = [
        f"listeners.ssl.local = {LOOPBACK}:{ports[0]}",
        *(f"ssl_options.{name} = {path}" for name, path in files.items()),
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
        "ssl_cert_login_from = common_name",
        "auth_mechanisms.3 = EXTERNAL",
        f"management.ssl.ip = {LOOPBACK}",
        f"management.ssl.port = {ports[1]}",
        *(f"management.ssl.{name} = {path}" for name, path in files.items()),
    ]
    node = PrivateNode(
        tmp_path_factory.mktemp("node"),
        definitions=definitions_with_user(USER, "first-password"),
        management=True,
        plugins=("rabbitmq_auth_mechanism_ssl",),
        configuration=configuration,
    )
    with node:
        yield TlsBroker(node, ports[0], ports[1], papers)
        node.kill()


def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailable) as caught:
        drop(connect(read_addresses(url), name="a test"))
    assert "first-password" not in str(caught.value)
    return str(caught.value)


def test_a_broker_that_proves_its_name_is_spoken_to_with_a_password(broker: TlsBroker) -> None:
    connection = connect(read_addresses(broker.url(broker.papers.options(USER))), name="a test")

    assert connection.transport.sock.version() in ("TLSv1.2", "TLSv1.3")
    drop(connection)


def test_a_client_certificate_is_a_login(broker: TlsBroker) -> None:
    options = f"auth_mechanism=external&{broker.papers.options(USER)}"
    url = f"amqps://{USER}@localhost:{broker.port}/?{options}"

    connection = connect(read_addresses(url), name="a test")

    connection.channel().queue_declare("of-plantbus", exclusive=True)
    drop(connection)


REFUSED: Mapping[str, tuple[str, str, bool, str]] = {
    # certificate, host, whether our authority is named, what is said
    "an authority nobody trusts": (USER, "localhost", False, "nobody here trusts the authority of its certificate"),
    "another name": (USER, "127.0.0.1", True, "its certificate is for another address"),
    "no client certificate": ("", "localhost", True, "it asks for a client certificate: name ours with certfile="),
    "a client certificate of another authority": ("foreign", "localhost", True, "does not trust the authority of our"),
    "a client certificate that expired": ("expired", "localhost", True, "our certificate has expired"),
}

BEHIND_THE_HANDSHAKE = [REFUSED[name][3] for name in REFUSED if "client certificate" in name]


@pytest.mark.parametrize("name", REFUSED)
def test_each_way_tls_to_a_broker_goes_wrong_is_said_with_what_to_do(broker: TlsBroker, name: str) -> None:
    certificate, host, trusted, says = REFUSED[name]
    papers = broker.papers
    ca_file = papers.ours.ca_file if trusted else papers.others.ca_file
    options = papers.options(certificate, ca_file=ca_file) if certificate else urlencode({"cacertfile": ca_file})

    said = refusal(broker.url(options, host=host))

    # Of a client that is refused the line may be gone before the reason came.
    assert says in said or (says in BEHIND_THE_HANDSHAKE and "perhaps it asks for a client certificate" in said)
    assert "amqps://plantbus:***@" in said


def test_a_certificate_of_nobody_there_is_no_login(broker: TlsBroker) -> None:
    options = f"auth_mechanism=external&{broker.papers.options('stranger')}"

    assert "refused our certificate as a login" in refusal(broker.url(options, user="stranger"))


def test_tls_at_a_port_without_it_is_said(broker: TlsBroker) -> None:
    url = f"amqps://plantbus:first-password@localhost:{broker.node.amqp_port}/?{broker.papers.options(USER)}"

    assert "it does not speak TLS at this port" in refusal(url)


def test_a_broker_whose_certificate_expired_is_not_spoken_to(papers: Papers) -> None:
    with tls_server(papers.ours.certificate("expired-broker", names="DNS:localhost", days=-1)) as port:
        url = f"amqps://plantbus:first-password@localhost:{port}/?{urlencode({'cacertfile': papers.ours.ca_file})}"

        assert "its certificate has expired" in refusal(url)


@contextlib.contextmanager
def tls_server(own: Certificate) -> Iterator[int]:
    """The port of a server with this certificate that hangs up after the handshake, however often it is called."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own.certificate, own.key)
    with serving(lambda caller: context.wrap_socket(caller, server_side=True).close()) as port:
        yield port


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that answers one caller after another, whatever becomes of each."""
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    caller, _ = listener.accept()
                    with caller:
                        caller.settimeout(30)
                        answer(caller)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            thread.join()


def test_the_management_api_proves_its_name_too(broker: TlsBroker) -> None:
    def users(host: str, ca_file: Path) -> Any:
        url = f"https://plantbus:first-password@{host}:{broker.management_port}?{urlencode({'cacertfile': ca_file})}"
        with Management(url, vhost="/") as management:
            return management._get("users")

    assert [user["name"] for user in users("localhost", broker.papers.ours.ca_file)] == [USER]
    for host, ca_file, says in (
        ("localhost", broker.papers.others.ca_file, "nobody here trusts the authority"),
        ("127.0.0.1", broker.papers.ours.ca_file, "its certificate is for another address"),
    ):
        with pytest.raises(BrokerUnavailable, match=says):
            users(host, ca_file)


def test_an_exchange_is_reached_with_a_certificate_as_login(broker: TlsBroker) -> None:
    def line(name: str, *, host: str = "localhost") -> Line:
        own = broker.papers.certificate(name)
        files = TlsFiles(ca_file=str(broker.papers.ours.ca_file), certificate=str(own.certificate), key=str(own.key))
        target = Target(
            host=host,
            port=broker.port,
            vhost="/",
            user=name,
            password="",
            tls=True,
            files=files,
            is_external=True,
            name="x",
        )
        return Line.open(target, deadline=Deadline.after(timedelta(seconds=30)))

    opened = line(USER)
    opened.look_for("amq.topic")
    opened.close()
    for name, host, says in (
        ("expired", "localhost", "our certificate has expired"),
        (USER, "127.0.0.1", "its certificate is for another address"),
    ):
        with pytest.raises(EndpointDown) as caught:
            line(name, host=host)
        assert caught.value.cause == "endpoint.tls"
        assert says in str(caught.value) or "perhaps it asks for a client certificate" in str(caught.value)


# --- options that would leave out a check, and files that are wrong ---------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqps://u:secret@host?verify=verify_none", "certificates are always checked"),
        ("amqps://u:secret@host?cacertfiel=/ca.pem", "unknown option 'cacertfiel'"),
        ("amqps://u:secret@host?ssl_options=%7B%27cert_reqs%27%3A0%7D", "unknown option 'ssl_options'"),
        ("amqp://u:secret@host?cacertfile=/ca.pem", "cacertfile without TLS; amqps://"),
        ("amqp://u:secret@host?auth_mechanism=external", "logs in with a certificate"),
        ("amqps://u:secret@host?server_name_indication=", "server_name_indication is empty"),
        ("amqps://u:secret@host?auth_mechanism=external", "logs in with a certificate"),
        ("amqps://u:secret@host?auth_mechanism=anonymous", "auth_mechanism is one of"),
    ],
)
def test_an_option_that_would_leave_out_a_check_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_addresses(url)

    assert says in str(caught.value)
    assert "secret" not in str(caught.value)

    endpoint = Endpoint(name="others", system="s", adapter="amqp", address="amqp://host", options={"url": "env:URL"})
    adapter = AmqpAdapter(endpoint, secret=lambda name: Secret(name, url))
    with pytest.raises(EndpointDown) as held:
        adapter.check()

    assert says in held.value.detail
    assert "secret" not in held.value.detail


@pytest.mark.parametrize("name", ["ca_file", "certificate", "key"])
def test_an_option_of_tls_is_refused_where_an_endpoint_speaks_none(name: str) -> None:
    def endpoint(adapter: str, options: dict[str, object]) -> Endpoint:
        address = f"{adapter}://target.plant/"
        return Endpoint(name="target", system="s", adapter=adapter, address=address, options=options)

    with pytest.raises(ConfigurationError, match="for TLS; https:// speaks it"):
        http_adapter(endpoint("http", {name: "/some/file.pem"}), secret=no_secret)
    with pytest.raises(ConfigurationError, match=f"{name}"):
        AmqpAdapter(endpoint("amqp", {"user": "u", "password": "env:X", name: "/some/file.pem"}), secret=no_secret)


def no_secret(name: str) -> Secret:
    raise SecretUnavailable(name)


def test_options_of_tls_are_refused_where_a_management_api_speaks_none() -> None:
    with pytest.raises(ConfigurationError, match="cacertfile without TLS; https:// speaks it"):
        Management("http://host:15672?cacertfile=/ca.pem", vhost="/")


def test_a_line_to_another_machine_without_tls_is_known() -> None:
    [remote], [local], [safe] = map(read_addresses, ("amqp://u:p@mq.plant/x", "amqp://u:p@[::1]/x", "amqps://u:p@mq/x"))

    assert (remote.is_unencrypted, local.is_unencrypted, safe.is_unencrypted) == (True, False, False)


PROJECT = """
[bus]
broker = "amqps://mq.plant/x?auth_mechanism=external&certfile=tls/bus.pem&keyfile=/keys/bus.key;amqps://mq-2.plant/x"
password = "file:secret"
"""


def test_files_of_a_broker_s_url_are_the_project_s_and_a_certificate_needs_no_password(tmp_path: Path) -> None:
    (tmp_path / "bus.toml").write_text(PROJECT)
    (tmp_path / "secret").write_text("first-password")
    (tmp_path / "secret").chmod(0o600)

    external, plain = read_addresses(broker_url(load_project(tmp_path)))

    assert external.is_external
    assert (external.user, external.password) == ("bus", "")
    assert external.tls is not None
    assert external.tls["certfile"] == f"{tmp_path}/tls/bus.pem"
    assert external.tls["keyfile"] == "/keys/bus.key"
    assert (plain.user, plain.password) == ("bus", "first-password")


def wrong_files(papers: Papers, folder: Path) -> dict[str, tuple[TlsFiles, str]]:
    good, other = papers.certificate(USER), papers.certificate("stranger")
    text = folder / "text.pem"
    text.write_text("no certificate")
    text.chmod(0o600)
    open_key = folder / "open.key"
    open_key.write_bytes(good.key.read_bytes())
    open_key.chmod(0o644)
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    mine = str(good.certificate)
    return {
        "no authority there": (TlsFiles(ca_file=str(folder / "none")), "holds no certificates of authorities"),
        "no authority in it": (TlsFiles(ca_file=str(text)), "holds no certificates of authorities"),
        "no certificate there": (TlsFiles(certificate=str(folder / "none")), "cannot be read"),
        "no key there": (TlsFiles(certificate=mine, key=str(folder / "none")), "cannot be read"),
        "no certificate in it": (TlsFiles(certificate=str(text)), "or are not PEM"),
        "the key of another": (TlsFiles(certificate=mine, key=str(other.key)), "do not go together"),
        "a key for everybody": (TlsFiles(certificate=mine, key=str(open_key)), f"chmod 600 {open_key}"),
        "a pipe nobody writes to": (TlsFiles(ca_file=str(pipe)), "is no ordinary file"),
        "a device without end": (TlsFiles(certificate="/dev/zero"), "is no ordinary file"),
        "a folder": (TlsFiles(certificate=mine, key=str(folder)), "is no ordinary file"),
        "a key alone": (TlsFiles(key=str(good.key)), "there is a key"),
    }


def test_a_file_that_is_wrong_is_named_with_what_is_expected(papers: Papers, tmp_path: Path) -> None:
    for name, (files, says) in wrong_files(papers, tmp_path).items():
        with pytest.raises(ConfigurationError) as caught:
            client_context(files)
        assert says in str(caught.value), name


# --- targets ---------------------------------------------------------------------------------------------------------


def test_a_target_whose_certificate_expired_holds_its_endpoint(papers: Papers) -> None:
    with tls_server(papers.ours.certificate("expired-target", names="DNS:localhost", days=-1)) as port:
        line = HttpConnector(
            f"https://localhost:{port}/",
            timeout=timedelta(seconds=30),
            credentials=nobody(),
            connections=1,
            files=TlsFiles(ca_file=str(papers.ours.ca_file)),
        )
        with pytest.raises(EndpointDown) as caught:
            line.post("/", b"{}", headers={}, deadline=line.deadline())
        line.close()

    assert caught.value.cause == "endpoint.tls"
    assert "its certificate has expired: it needs a new one" in caught.value.detail


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (USER, "200"),
        ("", "it asks for a client certificate: name ours with certificate and key"),
        ("foreign", "it does not trust the authority of our certificate"),
        ("expired", "our certificate has expired"),
    ],
)
def test_a_target_that_asks_for_a_certificate_gets_ours_or_holds_its_endpoint_and_leaves_no_doubt(
    papers: Papers, name: str, says: str
) -> None:
    own = papers.certificate(name) if name else None
    files = TlsFiles(
        ca_file=str(papers.ours.ca_file),
        certificate=str(own.certificate) if own else "",
        key=str(own.key) if own else "",
    )
    server = papers.ours.certificate("localhost", names="DNS:localhost")
    with ssl_target(server, papers.ours.ca_file) as port:
        line = HttpConnector(
            f"https://localhost:{port}/",
            timeout=timedelta(seconds=30),
            credentials=nobody(),
            connections=1,
            files=files,
        )
        try:
            said = f"{line.post('/', b'{}', headers={}, deadline=line.deadline()).status}"
        except EndpointDown as error:
            said = str(error)
        line.close()

    assert says in said


def test_files_of_an_endpoint_s_options_are_the_project_s(
    papers: Papers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = papers.certificate(USER)
    project = tmp_path / "project"
    project.mkdir()
    (project / "bus.toml").write_text(PROJECT)
    for name, file in (("ca.pem", papers.ours.ca_file), ("own.pem", own.certificate), ("own.key", own.key)):
        (project / name).write_bytes(file.read_bytes())
    (project / "own.key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    options = {"ca_file": "ca.pem", "certificate": "own.pem", "key": "own.key"}
    endpoint = Endpoint(name="target", system="s", adapter="http", address="https://target.plant/", options=options)

    adapter_of(load_project(project), endpoint).close()

    (project / "own.key").unlink()
    with pytest.raises(ConfigurationError, match=re.escape(f"{project}/own.key")):
        adapter_of(load_project(project), endpoint)


@contextlib.contextmanager
def ssl_target(own: Certificate, ca_file: Path) -> Iterator[int]:
    """The port of a server that answers whoever shows a certificate of this authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca_file)
    context.load_cert_chain(own.certificate, own.key)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(lambda caller: _answer_in_tls(context, caller)) as port:
        yield port


def _answer_in_tls(context: ssl.SSLContext, caller: socket.socket) -> None:
    """Closed on what nobody read, a line loses what was said last: so all is read, to the caller's end."""
    with caller.dup() as below:
        try:
            with context.wrap_socket(caller, server_side=True) as line:
                line.recv(65_536)
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                _read_to_its_end(line)
        except ssl.SSLError:
            # In TLS 1.3 the caller may have sent its request by then.
            below.shutdown(socket.SHUT_WR)
            _read_to_its_end(below)


def _read_to_its_end(line: socket.socket) -> None:
    while line.recv(65_536):
        pass


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(papers: Papers) -> Iterator[TlsServer]:
    if programs() is None:
        pytest.skip("no PostgreSQL with TLS here: type `apt-get install --no-install-recommends postgresql`")
    with tls_postgresql(papers.ours) as running:
        yield running


def store_url(server: TlsServer, papers: Papers, name: str, *, host: str = "localhost", ca: Path | None = None) -> str:
    own = papers.certificate(name) if name else None
    options = {"sslmode": "verify-full", "sslrootcert": ca or papers.ours.ca_file}
    options |= {"sslcert": own.certificate, "sslkey": own.key} if own else {}
    return f"postgresql://{USER}@{host}:{server.port}/{DATABASE}?{urlencode(options)}"


def test_a_store_that_proves_its_name_takes_our_certificate_as_login(server: TlsServer, papers: Papers) -> None:
    database = Database(store_url(server, papers, USER))
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT ssl, client_dn, session_user FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).one()
    database.close()

    assert tuple(found) == (True, f"/CN={USER}", USER)


STORES_REFUSED: Mapping[str, tuple[str, str, bool, str]] = {
    "an authority nobody trusts": (USER, "localhost", False, "name the file of its authority with sslrootcert="),
    "another name": (USER, "127.0.0.1", True, "write the name that its certificate bears into the address"),
    "no client certificate": ("", "localhost", True, "name ours with sslcert= and sslkey="),
    "a certificate of another name": ("stranger", "localhost", True, "the name in our certificate must be the login's"),
    "a certificate of another authority": ("foreign", "localhost", True, "does not trust the authority of our"),
    "a certificate that expired": ("expired", "localhost", True, "our certificate has expired"),
}


@pytest.mark.parametrize("name", STORES_REFUSED)
def test_each_way_tls_to_a_store_goes_wrong_is_said_with_what_to_do(
    server: TlsServer, papers: Papers, name: str
) -> None:
    certificate, host, trusted, says = STORES_REFUSED[name]
    ca = papers.ours.ca_file if trusted else papers.others.ca_file
    database = Database(store_url(server, papers, certificate, host=host, ca=ca))

    with pytest.raises(NotAvailable) as caught, database.read():
        pass

    database.close()
    # Of a client that is refused in the handshake the line may be gone before the reason came.
    lost = name in ("a certificate of another authority", "a certificate that expired")
    assert says in str(caught.value) or (lost and "perhaps it does not take our certificate" in str(caught.value))


def test_a_store_on_another_machine_proves_its_name_unless_somebody_says_otherwise() -> None:
    asked = Database("postgresql://u@db.plant/x").url.query
    stated = Database("postgresql://u@db.plant/x?sslrootcert=/ca.pem").url.query
    off = Database("postgresql://u@db.plant/x?sslmode=disable").url

    assert (asked["sslmode"], asked["sslrootcert"]) == ("verify-full", "system")
    assert (stated["sslmode"], stated["sslrootcert"]) == ("verify-full", "/ca.pem")
    assert is_unencrypted(off)
    assert off.query["sslmode"] == "disable"


@pytest.mark.parametrize("address", ["u@localhost/x", "u@127.0.0.1/x", "u@[::1]/x", "u@/x?host=/run/postgresql", "/x"])
def test_a_store_on_this_machine_needs_no_tls(address: str) -> None:
    url = Database(f"postgresql://{address}").url

    assert "sslmode" not in url.query
    assert not is_unencrypted(url)


@pytest.mark.parametrize(
    ("query", "variable"),
    [
        ("hostaddr=10.0.0.5", ""),
        ("hostaddr=10.0.0.5&host=localhost", ""),
        ("service=plant", ""),
        ("", "PGHOSTADDR"),
        ("", "PGSERVICE"),
    ],
)
def test_no_other_way_to_name_a_machine_gets_around_the_check(
    query: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, "10.0.0.5")

    assert Database(f"postgresql://u@/x?{query}").url.query["sslmode"] == "verify-full"
    assert is_unencrypted(Database(f"postgresql://u@/x?sslmode=disable&{query}").url)


@pytest.mark.parametrize("mode", ["require", "prefer", "allow", "verify-ca", "verify_full", ""])
def test_a_mode_that_does_not_look_who_answers_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not mode:
        monkeypatch.setenv("PGSSLMODE", "prefer")
    query = f"?sslmode={mode}" if mode else ""

    with pytest.raises(ConfigurationError) as caught:
        Database(f"postgresql://u:secret@db.plant/x{query}")

    assert "sslmode=verify-full" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_store_that_does_not_speak_tls_is_told(papers: Papers) -> None:
    with plain_postgresql() as port:
        options = urlencode({"sslmode": "verify-full", "sslrootcert": papers.ours.ca_file})
        database = Database(f"postgresql://u@localhost:{port}/x?{options}")

        with pytest.raises(StoreUnavailable, match="switch TLS on there, or say sslmode=disable"), database.read():
            pass

        database.close()


@contextlib.contextmanager
def plain_postgresql() -> Iterator[int]:
    """The port of what answers, as PostgreSQL without TLS does, every wish for it with `N`."""
    with serving(_refuse_tls) as port:
        yield port


def _refuse_tls(caller: socket.socket) -> None:
    caller.recv(8)
    caller.sendall(b"N")
    caller.recv(1)


# --- all of it -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_whole_bus_runs_over_tls_with_certificates_as_logins(
    broker: TlsBroker, server: TlsServer, papers: Papers, tmp_path: Path
) -> None:
    options = f"auth_mechanism=external&{papers.options(USER)}"
    broker_url = f"amqps://{USER}@localhost:{broker.port}/?{options}"
    order = f"N{random.getrandbits(32)}"

    with running_bus(tmp_path / "project", store_url(server, papers, USER), broker_url) as bus:
        bus.publish(*(a_native_step(order, step, "keeper") for step in (1, 2, 3)))
        bus.delivers(order, count=6)
        doctor = bus.order("doctor", "-o", "json")
        bus.proves_itself()

    assert "TLSv1" in doctor.stdout
    assert "its certificate and name are checked" in doctor.stdout
