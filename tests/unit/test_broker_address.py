"""Broker URLs: failover and TLS are read from them, passwords never come out of them."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker.address import mask_url, read_addresses
from bus.broker.link import connect
from bus.errors import BrokerUnavailable, ConfigurationError

CERTIFICATE = Path(__file__).parents[1] / "conformance" / "certificates" / "loopback.pem"


def test_a_url_names_its_nodes_in_order() -> None:
    first, second = read_addresses("amqp://mes:p%40ss@one/plant%2F1;amqp://mes:p%40ss@[::1]:5673/plant%2F1")

    assert str(second) == "amqp://mes:***@[::1]:5673/plant/1"
    assert (first.server, first.user, first.password, first.vhost) == ("one:5672", "mes", "p@ss", "plant/1")
    assert second.server == "[::1]:5673"


def test_tls_checks_the_certificate_and_each_nodes_own_name() -> None:
    first, second = read_addresses("amqps://u:p@one?cacertfile=/ca.pem;amqps://u:p@two")

    assert first.tls is not None
    assert second.tls is not None
    assert (first.tls["server_hostname"], second.tls["server_hostname"]) == ("one", "two")
    assert first.tls["ca_certs"] == "/ca.pem"
    assert first.tls["cert_reqs"] == second.tls["cert_reqs"] == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://u:secret@host",
        "amqp://host",
        "amqp://u:secret@host:port",
        "amqps://u:secret@host?verify=verify_none",
        "amqp://one:secret@a;amqp://two:secret@b",
    ],
)
def test_a_wrong_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_addresses(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["secret", "sec@ret", "s:e/c", "%73"])
def test_no_password_is_shown(password: str) -> None:
    url = f"amqp://mes:{password}@one/v;amqp://mes:{password}@two/v"

    assert mask_url(url) == "amqp://one/v;amqp://two/v"


@pytest.fixture
def tls_port() -> Iterator[int]:
    """A server with the certificate of the loopback address that hangs up after the TLS handshake."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True):
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (f"cacertfile={CERTIFICATE}&server_name_indication=broker.plant", "Hostname mismatch"),
        ("", "self.signed certificate"),
    ],
)
def test_a_server_must_prove_its_name(tls_port: int, options: str, complaint: str) -> None:
    [address] = read_addresses(f"amqps://mes:secret@127.0.0.1:{tls_port}?{options}")

    with pytest.raises(BrokerUnavailable, match=complaint):
        connect([address], name="a test")


def test_a_server_that_proves_its_name_is_spoken_to(tls_port: int) -> None:
    [address] = read_addresses(f"amqps://mes:secret@127.0.0.1:{tls_port}?cacertfile={CERTIFICATE}")

    with pytest.raises(BrokerUnavailable) as caught:
        connect([address], name="a test")

    assert "its certificate" not in str(caught.value)
    assert "it ended the connection" in str(caught.value)
