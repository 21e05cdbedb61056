"""Broker URLs: failover and TLS are read from them, passwords never come out of them."""

from __future__ import annotations

import ssl

import pytest

from bus.broker.address import mask_url, read_addresses
from bus.errors import ConfigurationError


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

    assert mask_url(url) == "amqp://mes:***@one/v;amqp://mes:***@two/v"
