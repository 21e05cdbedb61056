"""Programs of Debian that a fault is made with: those of the machine, else unpacked into a folder of the test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from bus.errors import NotAvailable

PATIENCE = 60  # seconds
_LIBFAKETIME = "libfaketime.so.1"


def provide_strace(folder: Path) -> Path:
    """The program strace.

    Raises:
        NotAvailable: it is not there and cannot be had.
    """
    found = shutil.which("strace")
    return Path(found) if found else _unpacked("strace", folder) / "usr/bin/strace"


def provide_libfaketime(folder: Path) -> Path:
    """The library that gives a process another clock.

    Raises:
        NotAvailable: it is not there and cannot be had.
    """
    found = _find(Path("/usr/lib")) or _find(_unpacked("libfaketime", folder))
    if found is None:
        raise NotAvailable(f"the package libfaketime holds no {_LIBFAKETIME}")
    return found


def _find(folder: Path) -> Path | None:
    return next(folder.glob(f"**/faketime/{_LIBFAKETIME}"), None)


def _unpacked(package: str, folder: Path) -> Path:
    """Nothing else on the machine is changed."""
    into = folder / package
    into.mkdir()
    try:
        subprocess.run(["apt-get", "-q", "download", package], cwd=into, check=True, capture_output=True)
        (archive,) = into.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, into], check=True, capture_output=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise NotAvailable(f"`apt-get download {package}` failed: {error}") from error
    return into


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Path]:
    """A disk of its own, in memory, while the block runs.

    Raises:
        NotAvailable: only root may mount one.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        raise NotAvailable(f"a disk in memory could not be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path) -> None:
    """Take whatever room is left on the disk."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):  # ENOSPC
                while True:
                    file.write(bytes(size))


def family(pid: int) -> list[int]:
    """The process and the children it has now."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@contextlib.contextmanager
def injected(strace: Path, pids: Sequence[int], *, calls: str, what: str, follow: bool = True) -> Iterator[None]:
    """While the block runs `what` (strace's words: error=EIO) happens in these system calls of these processes.

    `follow`: also in all their threads, and in what they start meanwhile.
    """
    command = [
        str(strace),
        *(["-f"] if follow else []),
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:{what}",
        "-o",
        os.devnull,
    ]
    for pid in pids:
        command += ["-p", str(pid)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as tracer:
        assert tracer.stderr is not None
        said: list[str] = []
        while sum("attach" in line for line in said) < len(pids):  # of each whether it is, or is gone
            said.append(tracer.stderr.readline())
            assert said[-1], f"strace ended: {''.join(said)}"
        reader = threading.Thread(target=tracer.stderr.read, name="strace", daemon=True)
        reader.start()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(PATIENCE)
            reader.join(PATIENCE)
