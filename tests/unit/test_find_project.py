"""A project is code that is run: the nearest one is taken only where nobody else could have put it there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bus.errors import NotAvailable
from bus.find_project import find_project


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a project of ours, where the caller stands."""
    tmp_path.chmod(0o755)
    (tmp_path / "bus.toml").touch(mode=0o644)
    for name in ("routes", "here"):
        (tmp_path / name).mkdir(mode=0o755)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_the_nearest_project_is_taken_where_it_is_ours(inside: Path) -> None:
    assert find_project(None, {}) == inside


@pytest.mark.parametrize("name", [".", "bus.toml", "routes"])
@pytest.mark.parametrize("mode", [0o757, 0o1777])
def test_a_project_everybody_may_write_is_not_run_unless_it_is_named(inside: Path, name: str, mode: int) -> None:
    (inside / name).chmod(mode)

    with pytest.raises(NotAvailable, match=f"everybody may write .*--project {inside}"):
        find_project(None, {})

    assert find_project(inside, {}) == find_project(None, {"BUS_PROJECT": str(inside)}) == inside


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", [".", "bus.toml", "routes"])
def test_a_project_of_somebody_else_is_not_run_unless_it_is_named(inside: Path, name: str) -> None:
    os.chown(inside / name, 65534, -1)

    with pytest.raises(NotAvailable, match=f"not to you.*--project {inside}"):
        find_project(None, {})

    assert find_project(inside, {}) == inside


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_project_that_others_of_a_group_may_write_is_not_run_unless_it_is_named(inside: Path) -> None:
    inside.chmod(0o775)
    assert find_project(None, {}) == inside

    os.chown(inside, -1, 54321)

    with pytest.raises(NotAvailable, match="group 54321 may write"):
        find_project(None, {})
