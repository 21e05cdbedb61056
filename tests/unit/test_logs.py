"""Logs: what a sender wrote stays one field of one line, and no terminal obeys it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from bus.telemetry.logs import LogTelemetry, configure_logs

HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b[2J",
    "a\rb",
    "a\nb",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066",
    "\x7f",
    "\ud800",
    "\u2028",
]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    handlers = logging.root.handlers[:]
    yield
    logger.remove()
    logging.root.handlers[:] = handlers


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_a_sender_wrote_is_obeyed_by_a_terminal(
    hostile: str, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logs(as_json=as_json)

    LogTelemetry("router").event("message refused", id=hostile)
    logging.getLogger("library").warning("%s", hostile)

    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    if as_json:
        assert [json.loads(lines[0])["id"], json.loads(lines[1])["event"]] == [hostile, hostile]
    else:
        assert f"id={json.dumps(hostile)}" in lines[0]


@given(text=st.text())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_field_of_a_json_line_is_what_was_logged(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(as_json=True)

    LogTelemetry("router").event("message refused", id=f"x{text}")

    assert json.loads(capsys.readouterr().err)["id"] == f"x{text}"


def test_what_is_printable_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(as_json=False)

    LogTelemetry("router").event("message refused", id="Auftrag-Ä1", detail="two words")

    assert 'id=Auftrag-Ä1 detail="two words"' in capsys.readouterr().err
