"""Find a project's folder, and only one that nobody else could have put there."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from bus.errors import NotAvailable


def find_project(folder: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The project's folder: the one given, BUS_PROJECT, or the nearest one above with a bus.toml.

    A project is code that is run. The nearest one may have been put there by somebody else (in /tmp, on a share): it
    is taken only where nobody but the caller and root could have written it.

    Raises:
        NotAvailable: there is none, or the nearest one is not the caller's own.
    """
    named = folder or (Path(environ["BUS_PROJECT"]) if environ.get("BUS_PROJECT") else None)
    if named is not None:
        if not (named / "bus.toml").is_file():
            raise NotAvailable(f"{named} holds no bus.toml; name the project's folder with --project or BUS_PROJECT")
        return named.resolve()
    here = Path.cwd().resolve()
    for candidate in (here, *here.parents):
        if (candidate / "bus.toml").is_file():
            if doubt := _foreign(candidate):
                raise NotAvailable(
                    f"{candidate} holds a bus.toml, but {doubt}: a project's files are run as programs. "
                    f"If it is the one you mean, confirm it: --project {candidate}"
                )
            return candidate
    raise NotAvailable(f"no bus.toml in {here} or above; go into a project, or name it with --project or BUS_PROJECT")


def _foreign(root: Path) -> str:
    """Who else could have put code into the project; empty where nobody could."""
    for path in (root, *(root / name for name in ("bus.toml", "routes", "transformers", "adapters"))):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if status.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to {_user(status.st_uid)}, not to you"
        if status.st_mode & stat.S_IWOTH:
            return f"everybody may write {path} (chmod o-w {path})"
        if status.st_mode & stat.S_IWGRP and _has_others(status.st_gid):
            return f"the group {_group(status.st_gid)} may write {path} (chmod g-w {path})"
    return ""


def _has_others(group: int) -> bool:
    """False for a group that is root's, or that bears the caller's name, as many systems give one to each user."""
    ours = {_user(os.geteuid()), _user(0)}
    try:
        found = grp.getgrgid(group)
    except KeyError:
        return True
    return found.gr_name not in ours or not ours.issuperset(found.gr_mem)


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
