"""Where this machine keeps RabbitMQ's own server, and how it gets one where it has none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loguru import logger as log

from bus.errors import BusError, ConfigurationError, NotAvailable

_PACKAGE = "rabbitmq-server"
_DEBIAN_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# plantbus: no service starts while a package is installed; safe to delete.\nexit 101\n"


@dataclass(frozen=True)
class Installation:
    """RabbitMQ's own server script and the Erlang port mapper that belongs to its Erlang."""

    server: Path
    epmd: Path


def provide_rabbitmq() -> Installation:
    """The RabbitMQ of this machine; as root on Debian or Ubuntu the package is installed where it is missing.

    The package's system service is not started and nothing else on the machine is changed.

    Raises:
        NotAvailable: there is none and it cannot be installed; the text names the command to type.
        ConfigurationError: RABBITMQ_HOME names a folder without a server.
    """
    found = find_rabbitmq(os.environ)
    if found is None and _may_install():
        _install(_PACKAGE)
        found = find_rabbitmq(os.environ)
    if found is None:
        raise NotAvailable(_how_to_get_one())
    return found


def find_rabbitmq(environ: Mapping[str, str]) -> Installation | None:
    """RabbitMQ in `RABBITMQ_HOME` if that is set, else from the Debian package, else behind the PATH.

    Raises:
        ConfigurationError: RABBITMQ_HOME names a folder without a server.
    """
    path = environ.get("PATH", os.defpath)
    server = next((candidate for candidate in _servers(environ, path) if os.access(candidate, os.X_OK)), None)
    epmd = _epmd(path)
    return Installation(server, epmd) if server is not None and epmd is not None else None


def _servers(environ: Mapping[str, str], path: str) -> Iterator[Path]:
    if home := environ.get("RABBITMQ_HOME"):
        chosen = Path(home) / "sbin" / "rabbitmq-server"
        if not os.access(chosen, os.X_OK):
            raise ConfigurationError(f"RABBITMQ_HOME is {home}, but {chosen} is no program: correct it or unset it.")
        yield chosen
    yield _DEBIAN_SERVER
    if on_path := shutil.which("rabbitmq-server", path=path):
        # The wrapper of the package refuses other users and drops root; the server it wraps stands beside it.
        resolved = Path(on_path).resolve()
        yield resolved.with_name("rabbitmq-server") if resolved.name == "rabbitmq-script-wrapper" else resolved


def _epmd(path: str) -> Path | None:
    if on_path := shutil.which("epmd", path=path):
        return Path(on_path)
    # Erlang can be installed without a link for epmd: then it lies in the folder of its run-time system.
    erl = shutil.which("erl", path=path)
    return next(Path(erl).resolve().parent.parent.glob("erts-*/bin/epmd"), None) if erl else None


def _may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _how_to_get_one() -> str:
    become_root = "" if os.geteuid() == 0 else "sudo "
    return (
        "RabbitMQ is not installed on this machine. "
        f"Type `{become_root}apt-get install --no-install-recommends {_PACKAGE}` and repeat the command; "
        "or use a broker you have: `make demo BROKER=amqp://user:password@host MANAGEMENT=http://host:15672`."
    )


def _install(package: str) -> None:
    log.info("installing the Debian package {package}, once", package=package)
    with _services_stay_stopped():
        done = _apt_get("install", "-y", "--no-install-recommends", package)
        if done.returncode != 0:
            # The lists of a fresh machine are empty or name versions the mirror no longer has.
            _apt_get("update")
            done = _apt_get("install", "-y", "--no-install-recommends", package)
    if done.returncode != 0:
        last_lines = "\n".join(f"  {line}" for line in done.stdout.splitlines()[-5:])
        raise NotAvailable(f"apt-get could not install {package}:\n{last_lines}\n{_how_to_get_one()}")


def _apt_get(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - constant arguments, no shell
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments],  # noqa: S607 - the machine's own apt-get
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@contextlib.contextmanager
def _services_stay_stopped() -> Iterator[None]:
    """Debian's own switch against starting a service on installation; one that an administrator set is left alone."""
    try:
        with _POLICY.open("x") as policy:
            policy.write(_POLICY_TEXT)
            _POLICY.chmod(0o755)
    except FileExistsError:
        # One of ours was left by a killed installation; anybody else's decides for itself.
        if _POLICY.read_text(errors="replace") != _POLICY_TEXT:
            yield
            return
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        provide_rabbitmq()
    except BusError as error:
        sys.exit(str(error))
