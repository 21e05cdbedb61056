"""A PostgreSQL that speaks TLS on the loopback and takes client certificates as logins; from the system's package.

The PostgreSQL of the other tests is built without TLS.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from tests.security.authority import Authority
from tests.system.running_bus import until

DATABASE = "plant"
HBA = """
local all all trust
hostssl all plantbus 127.0.0.1/32 cert
hostssl all plantbus ::1/128 cert
hostssl all postgres 127.0.0.1/32 trust
hostssl all postgres ::1/128 trust
"""

# Ends the server and removes its folder when the test run was killed: its input ends without a line.
_GUARD = 'read -r line || { "$1/pg_ctl" -D "$2/data" -m immediate stop; rm -rf "$2"; }'


@dataclass(frozen=True)
class TlsServer:
    """`plantbus` must prove itself with a certificate of that name; `postgres` needs TLS alone."""

    port: int


def programs() -> Path | None:
    """Where the system's PostgreSQL is, the newest one; None: there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextlib.contextmanager
def tls_postgresql(authority: Authority) -> Iterator[TlsServer]:
    """The server, with a certificate for `localhost`; empty database `plant`, gone afterwards."""
    binaries = programs()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="plantbus-pg-"))
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        own = authority.certificate("localhost", names="DNS:localhost")
        for path, name in ((own.certificate, "server.pem"), (own.key, "server.key"), (authority.ca_file, "ca.pem")):
            shutil.copy(path, folder / name)
        (folder / "server.key").chmod(0o600)
        (folder / "hba").write_text(HBA)
        if user is not None:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        subprocess.run(
            [
                *(binaries / "initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "--no-sync"),
                *("-U", "postgres", "-D", folder / "data"),
            ],
            user=user,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        port = _free_port()
        settings = {
            "listen_addresses": "localhost",
            "port": str(port),
            "unix_socket_directories": str(folder),
            "hba_file": str(folder / "hba"),
            "ssl": "on",
            "ssl_ca_file": str(folder / "ca.pem"),
            "ssl_cert_file": str(folder / "server.pem"),
            "ssl_key_file": str(folder / "server.key"),
            "max_connections": "100",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", binaries, folder], user=user, cwd="/", stdin=subprocess.PIPE
        )
        stack.callback(guard.communicate, b"stopped\n")
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *options],
                user=user,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        stack.callback(_end, server)
        _make_database(folder, port)
        yield TlsServer(port)


def _make_database(folder: Path, port: int) -> None:
    def answers() -> bool:
        try:
            psycopg.connect(host=str(folder), port=port, user="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    assert until(answers), (folder / "log").read_text()
    with psycopg.connect(host=str(folder), port=port, user="postgres", autocommit=True) as administrator:
        administrator.execute("CREATE ROLE plantbus LOGIN SUPERUSER")
        administrator.execute(sql.SQL("CREATE DATABASE {} OWNER plantbus").format(sql.Identifier(DATABASE)))


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # its "fast shutdown": ends the sessions that are left
    server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
