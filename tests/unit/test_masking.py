"""What a target says is kept without our own login in it."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from html import escape
from unittest.mock import MagicMock
from urllib.parse import quote, quote_plus

import pytest
from amqp.exceptions import NotFound
from hypothesis import given
from hypothesis import strategies as st

from bus.connectors.amqp_line import Line, Publication
from bus.connectors.deadline import Deadline
from bus.connectors.masking import masking
from bus.errors import EndpointDown

SECRET = 'pa"s s/w\\ö&r%d'
SPELLINGS = {
    "as it is": SECRET,
    "JSON": json.dumps(SECRET),
    "JSON without ASCII": json.dumps(SECRET, ensure_ascii=False),
    "JSON with a slash escaped": json.dumps(SECRET).replace("/", "\\/"),
    "JSON in JSON": json.dumps(json.dumps(SECRET)),
    "JSON, every letter escaped": "".join(f"\\u{ord(letter):04X}" for letter in SECRET),
    "URL": quote(SECRET, safe=""),
    "URL in small letters": quote(SECRET, safe="").lower(),
    "form": quote_plus(SECRET),
    "XML": escape(SECRET),
    "XML by numbers": "".join(f"&#{ord(letter)};" for letter in SECRET),
    "Python": repr(SECRET.encode()),
    "UTF-8 taken for Latin-1": SECRET.encode().decode("latin-1"),
    "UTF-8 taken for Latin-1, in JSON": json.dumps(SECRET.encode().decode("latin-1")),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_secret_is_masked_however_it_is_spelled(name: str) -> None:
    said = f"denied for {SPELLINGS[name]}."

    assert SPELLINGS[name].strip("\"'b") not in masking((SECRET,)).text(said)
    assert "***" in masking((SECRET,)).octets(said.encode()).decode()
    assert masking((SECRET,)).text(said).startswith("denied for ")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
def test_a_secret_is_masked_in_the_encodings_of_documents(encoding: str) -> None:
    assert masking((SECRET,)).octets(f"<a>{SECRET}</a>".encode(encoding)).count(b"***") == 1


@given(st.text(min_size=6, max_size=30), st.text(), st.text())
def test_no_secret_survives_among_anything_else(secret: str, before: str, after: str) -> None:
    assert secret not in masking((secret,)).text(f"{before}{secret}{after}").replace("***", "\0")


def test_what_holds_no_secret_stays_as_it_is() -> None:
    said = b'{"document": "0000004711", "text": "100 % \\u00f6 &amp; \xff"}'

    assert masking(("first-password", "abc")).octets(said) == said
    assert masking(()).octets(said) == said


@pytest.mark.parametrize("letter", ["\\", "%", "a", "&"])
def test_masking_takes_time_in_proportion_to_the_answer(letter: str) -> None:
    before = time.process_time()

    masking((f"{letter * 30}!",)).octets(letter.encode() * 100_000)

    assert time.process_time() - before < 3


def test_what_a_broker_says_is_kept_without_our_password() -> None:
    connection = MagicMock()
    connection.transport.having_timeout.side_effect = NotFound("no exchange 'first-password'")
    line = Line(connection, user="mes", secrets=masking(("first-password",)))

    publication = Publication("bus.out", "a.b", {}, {"idempotency_key": "k"}, b"{}")
    (landed,) = line.publish([publication], Deadline.after(timedelta(seconds=1)))

    assert isinstance(landed, EndpointDown)
    assert "no exchange '***'" in str(landed)
    assert b"first-password" not in landed.exchange.received
