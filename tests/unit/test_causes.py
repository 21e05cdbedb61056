"""Every cause the code can give has a remedy of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.model.causes import REMEDIES, UNKNOWN, remedy

CAUSE = re.compile(r"[a-z-]+\.([a-z-]+\.?)*")
"""With a dot at its end: the beginning of causes that are put together; that prefix must be listed."""
ROOT = Path(__file__).parents[2]
RAISING = {
    "MessageInvalid",
    "MessageRefused",
    "DeliveryFailure",
    "TransientFailure",
    "EndpointDown",
    "PermanentFailure",
    "OutcomeUnknown",
}


def causes_in(source: str) -> Iterator[str]:
    """Texts that stand where a cause is expected: first of an error, or given as `cause=`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        given = [keyword.value for keyword in node.keywords if keyword.arg == "cause"]
        if isinstance(node.func, ast.Name) and node.func.id in RAISING:
            given += node.args[:1]
        for value in given:
            for text in ast.walk(value):
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and CAUSE.fullmatch(text.value):
                    yield text.value.removesuffix(".")


def causes_of_the_project() -> set[str]:
    files = [each for folder in ("bus", "adapters", "transformers") for each in (ROOT / folder).rglob("*.py")]
    return {cause for file in files for cause in causes_in(file.read_text())}


def test_the_code_s_causes_are_found() -> None:
    assert list(causes_in('raise PermanentFailure("a.b" if x else "c.d", "text.x")\nend(cause="e.f")')) == [
        "a.b",
        "c.d",
        "e.f",
    ]
    assert "endpoint.credentials-refused" in causes_of_the_project()


def test_every_cause_has_a_remedy_of_its_own() -> None:
    assert sorted(causes_of_the_project() - set(REMEDIES)) == []


def test_a_remedy_is_one_line_a_person_can_act_on() -> None:
    for cause, text in REMEDIES.items():
        assert text == text.strip()
        assert "\n" not in text
        assert text.endswith("."), cause
        assert len(text) <= 110, cause


@pytest.mark.parametrize(
    ("cause", "listed"),
    [("target.409", "target"), ("endpoint.tls", "endpoint.tls"), ("json.syntax.deep", "json.syntax")],
)
def test_a_cause_that_is_not_listed_has_the_remedy_of_its_prefix(cause: str, listed: str) -> None:
    assert remedy(cause) == REMEDIES[listed]


@pytest.mark.parametrize("cause", ["", "nobody.knows", "outcomes"])
def test_an_unknown_cause_says_where_to_look(cause: str) -> None:
    assert remedy(cause) == UNKNOWN
