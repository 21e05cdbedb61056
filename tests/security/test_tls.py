"""TLS to RabbitMQ, PostgreSQL and targets with real certificates: names are checked, a refusal says what to do."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bus.broker.address import read_addresses
from bus.broker.link import connect, drop
from bus.broker.management import Management
from bus.broker.node import PrivateNode
from bus.broker.node_files import LOOPBACK
from bus.connectors.amqp_line import Line, Target
from bus.connectors.deadline import Deadline
from bus.connectors.http import HttpConnector
from bus.connectors.http_credentials import nobody
from bus.errors import BrokerUnavailable, ConfigurationError, EndpointDown, NotAvailable, StoreUnavailable
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
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    caller, _ = listener.accept()
                    caller.settimeout(30)
                    with caller, context.wrap_socket(caller, server_side=True):
                        pass

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
        ("amqps://u:secret@host?auth_mechanism=external", "logs in with a certificate"),
        ("amqps://u:secret@host?auth_mechanism=anonymous", "auth_mechanism is one of"),
    ],
)
def test_an_option_that_would_leave_out_a_check_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_addresses(url)

    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def wrong_files(papers: Papers, folder: Path) -> dict[str, tuple[TlsFiles, str]]:
    good, other = papers.certificate(USER), papers.certificate("stranger")
    text = folder / "text.pem"
    text.write_text("no certificate")
    text.chmod(0o600)
    open_key = folder / "open.key"
    open_key.write_bytes(good.key.read_bytes())
    open_key.chmod(0o644)
    mine = str(good.certificate)
    return {
        "no authority there": (TlsFiles(ca_file=str(folder / "none")), "holds no certificates of authorities"),
        "no authority in it": (TlsFiles(ca_file=str(text)), "holds no certificates of authorities"),
        "no certificate there": (TlsFiles(certificate=str(folder / "none")), "cannot be read"),
        "no key there": (TlsFiles(certificate=mine, key=str(folder / "none")), "cannot be read"),
        "no certificate in it": (TlsFiles(certificate=str(text)), "or are not PEM"),
        "the key of another": (TlsFiles(certificate=mine, key=str(other.key)), "do not go together"),
        "a key for everybody": (TlsFiles(certificate=mine, key=str(open_key)), f"chmod 600 {open_key}"),
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
            ca_file=str(papers.ours.ca_file),
        )
        with pytest.raises(EndpointDown) as caught:
            line.post("/", b"{}", headers={}, deadline=line.deadline())
        line.close()

    assert caught.value.cause == "endpoint.tls"
    assert "certificate has expired" in caught.value.detail


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
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def serve() -> None:
            while not stopping.is_set():
                with contextlib.suppress(OSError):
                    caller, _ = listener.accept()
                    with caller:
                        caller.settimeout(30)
                        caller.recv(8)
                        caller.sendall(b"N")
                        caller.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopping.set()
            thread.join()


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
