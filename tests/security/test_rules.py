"""README.md names, for each rule of the security floor, the tests that hold it: each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
RULE = re.compile(r"^\| (?!rule|---)(?P<rule>[^|]+) \| (?P<tests>[^|]+) \|$", re.MULTILINE)


def rules() -> dict[str, list[tuple[str, str]]]:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return {found["rule"].strip(): NAMED.findall(found["tests"]) for found in RULE.finditer(text)}


def test_every_rule_names_a_test_that_exists() -> None:
    missing = [
        f"{path}::{name}"
        for tests in rules().values()
        for path, name in tests
        if f"def {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]

    assert len(rules()) > 30
    assert [rule for rule, tests in rules().items() if not tests] == []
    assert missing == []


def test_every_test_here_stands_in_the_table() -> None:
    named = {(path, name) for tests in rules().values() for path, name in tests}
    here = {
        (f"tests/security/{path.name}", name)
        for path in HERE.glob("test_*.py")
        if path != Path(__file__)
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert sorted(here - named) == []
