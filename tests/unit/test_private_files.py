"""What the bus makes on disk is for its owner only, whatever the umask says."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.errors import NotAvailable
from bus.private_files import make_private_folder
from bus.store import schema
from bus.store.engine import Database


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_store_and_its_journals_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a" / ".bus" / "bus.db"
    database = Database(f"sqlite:///{path}")

    schema.upgrade(database)

    with database.read():
        assert {mode(each) for each in path.parent.iterdir()} == {0o600}
        assert len(list(path.parent.iterdir())) > 1
    database.close()
    assert [mode(path.parent), mode(path.parent.parent)] == [0o700, 0o700]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    make_private_folder(tmp_path / "new")
    make_private_folder(tmp_path)

    assert mode(tmp_path) == 0o750


def test_a_store_where_nothing_may_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    database = Database(f"sqlite:///{tmp_path}/file/bus.db")

    with pytest.raises(NotAvailable, match="cannot be made"):
        schema.upgrade(database)


def test_the_command_line_makes_nothing_for_others(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['--version']\nimport bus.cli\ntry: bus.cli.main()\nfinally: open('made', 'w')"

    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)

    assert mode(tmp_path / "made") == 0o600


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
