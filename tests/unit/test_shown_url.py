"""No text of the bus shows a login that stands in a URL, however the URL was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.broker.address import mask_url, read_addresses
from bus.broker.management import Management
from bus.connectors.http_adapter import http_adapter
from bus.errors import ConfigurationError
from bus.model.shown_url import shown_url
from bus.store.engine import Database
from tests.conformance.adapters import SecretShelf, an_endpoint

SECRETS = ["hunter2secret", "hunter2@secret", "hunter2/secret", "hunter2?secret", "hunter2#secret", "hunter2:secret"]
SECRETS += [
    "hunter2;secret",
    "hunter2[secret",
    "hunter2 secret",
    "hunter2\u2100secret",
    "hunter2%zzsecret",
    "hunter2://x",
]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://bus:secret@db.plant:5432/bus?sslpassword=x#y", "postgresql://db.plant:5432/bus"),
        ("postgresql://bus:sec@ret@db.plant/bus", "postgresql://db.plant/bus"),
        ("sqlite:////data/a@b/bus.db", "sqlite:////data/a@b/bus.db"),
        ("http://[::1]:8080/in", "http://[::1]:8080/in"),
        ("http://[::1]/in", "http://[::1]/in"),
        ("http://mes:secret", "http://mes:***"),
        ("mes.example", "mes.example"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_login_and_query(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@given(secret=st.text(min_size=1))
def test_no_password_changes_what_is_shown(secret: str) -> None:
    assert shown_url(f"postgresql://bus:{secret}@db.plant/bus") == "postgresql://db.plant/bus"


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "pattern",
    [
        "postgresql://bus:{}@db:port/bus",
        "postgresql://bus:{}@db:99999/bus",
        "postgresql://bus:@{}@db/bus",
        "oracle://bus:{}@db/bus",
        "nonsense:{}@db/bus",
    ],
)
def test_a_stores_address_that_cannot_be_read_is_refused_in_a_sentence_without_its_password(
    secret: str, pattern: str
) -> None:
    with pytest.raises(ConfigurationError, match="store") as caught:
        Database(pattern.format(secret))

    assert_hidden(secret, caught.value)


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("pattern", ["amqp://bus:{}@h:port/", "amqp://bus:{}@h:99999/", "http://bus:{}@h/", "{}"])
def test_a_brokers_url_that_cannot_be_read_is_refused_in_a_sentence_without_its_password(
    secret: str, pattern: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_addresses(pattern.format(secret))

    if pattern != "{}":
        assert_hidden(secret, caught.value)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_list_of_nodes_is_shown_without_its_passwords(secret: str) -> None:
    if "://" not in secret:
        assert mask_url(f"amqp://bus:{secret}@one/v;amqp://bus:{secret}@two/v") == "amqp://one/v;amqp://two/v"


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("pattern", ["http://u:{}@h:port/", "http://u:{}@h/", "ftp://u:{}@h/", "http://h:99999/?t={}"])
def test_an_endpoints_address_that_cannot_be_read_is_refused_in_a_sentence_without_its_password(
    secret: str, pattern: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        http_adapter(an_endpoint(pattern.format(secret), adapter="http", options={}), secret=SecretShelf())

    assert_hidden(secret, caught.value)


@pytest.mark.parametrize("url", ["http://bus:hunter2@h:port", "http://bus:hun/ter2@h", "http://bus:h[unter2@h"])
def test_a_management_url_that_cannot_be_read_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Management(url, vhost="/")

    assert "unter2" not in str(caught.value)


def assert_hidden(secret: str, error: BaseException) -> None:
    text = f"{error}{error.__cause__ or ''}"
    assert "hunter2" not in text
    assert secret not in text
