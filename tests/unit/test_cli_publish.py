"""`bus publish` reads no more than the bus takes."""

from __future__ import annotations

import pytest

from tests.unit.command_line import CommandLine

WORDS = ("--type", "sap.production-order.v2", "--system", "erp", "--site", "P100")


@pytest.mark.parametrize(("file", "said"), [("/dev/zero", None), ("-", b"x" * (64 * 1_048_576 + 1))])
def test_what_is_longer_than_the_bus_takes_is_refused_and_not_read_to_its_end(
    file: str, said: bytes | None, empty_machine: CommandLine
) -> None:
    result = empty_machine.type("publish", file, *WORDS, input=said)

    assert result.exit_code == 2
    assert "longer than the" in " ".join(result.stderr.replace("│", " ").split())
