"""A network for three machines on one: a bridge, a namespace for each, and lines that can be cut one way."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from itertools import permutations
from types import TracebackType
from typing import Self

from bus.errors import NotAvailable

_SUBNET = "198.18"  # RFC 2544: for measurements inside of one's own network, so nobody's real address
_NETWORKS = range(1, 255)
_NOBODY = "02:00:00:00:00:01"
"""What is sent to this hardware address arrives nowhere."""


@dataclass(frozen=True)
class Place:
    """Where one machine is: its namespace, its address, and its line's name at the bridge."""

    namespace: str
    address: str
    line: str

    def inside(self, *command: str) -> list[str]:
        """The command, to be run there; the process started is the command itself."""
        return ["ip", "netns", "exec", self.namespace, *command]


class Network:
    """Places that reach each other and this machine. Needs root. Side by side with others: each takes a free number."""

    def __init__(self, *, size: int) -> None:
        self._name, number = _claim_bridge()
        self.places = [
            Place(f"{self._name}-{at}", f"{_SUBNET}.{number}.{10 + at}", f"{self._name}l{at}")
            for at in range(1, size + 1)
        ]
        try:
            _ip("addr", "add", f"{_SUBNET}.{number}.1/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            for place in self.places:
                self._build(place)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take it all away; what still runs there must have been ended before."""
        for undo in self.removal():
            subprocess.run(undo, capture_output=True, check=False)

    def removal(self) -> list[list[str]]:
        """The commands that take it away, also for whoever does it after us."""
        away = [["ip", "netns", "delete", place.namespace] for place in self.places]
        # By name: a namespace goes only when the last connection in it was given up, and its lines with it.
        lines = [["ip", "link", "delete", place.line] for place in self.places]
        return [*away, *lines, ["ip", "link", "delete", self._name]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def lose(self, sender: Place, receiver: Place) -> None:
        """Whatever one says to the other is lost from now on, and nobody is told; the other direction still works."""
        lost = ("lladdr", _NOBODY, "nud", "permanent")
        _ip("-n", sender.namespace, "neigh", "replace", receiver.address, *lost, "dev", "eth0")

    def part(self, one: Place, other: Place) -> None:
        """They no longer reach each other; both still reach everybody else."""
        self.lose(one, other)
        self.lose(other, one)

    def unplug(self, place: Place) -> None:
        """Nobody reaches it any more, its clients included."""
        _ip("link", "set", place.line, "down")

    def plug(self, place: Place) -> None:
        _ip("link", "set", place.line, "up")

    def heal(self) -> None:
        """Everybody reaches everybody."""
        for place in self.places:
            self.plug(place)
        for sender, receiver in permutations(self.places, 2):
            _ip("-n", sender.namespace, "neigh", "flush", "to", receiver.address, "nud", "permanent", "dev", "eth0")

    def _build(self, place: Place) -> None:
        inside = ("-n", place.namespace)
        _ip("netns", "add", place.namespace)
        _ip("link", "add", place.line, "type", "veth", "peer", "name", "eth0", "netns", place.namespace)
        _ip("link", "set", place.line, "master", self._name)
        _ip("link", "set", place.line, "up")
        _ip(*inside, "addr", "add", f"{place.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")


def _claim_bridge() -> tuple[str, int]:
    """A bridge of a name that nobody had, and its number: the kernel takes a name once."""
    for number in _NETWORKS:
        name = f"pb{number}"
        made = subprocess.run(
            ["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True, check=False
        )
        if made.returncode == 0:
            return name, number
        if "File exists" not in made.stderr:
            raise NotAvailable(f"no network namespaces here: {made.stderr.strip()}; they need root and iproute2")
    raise NotAvailable(f"{len(_NETWORKS)} test networks exist: delete the bridges pb1, pb2, … that nobody uses")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
