"""A service that seems to stand on another machine: reached through a namespace whose line can be unplugged.

python -m tests.faults.far_service ADDRESS SOCKET      listens until its input ends; tells its port
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cluster_network import Network
from tests.faults.proxy import Proxy

_REPOSITORY = Path(__file__).parents[2]


@contextmanager
def far_away(network: Network, socket: Path) -> Iterator[int]:
    """The port at the address of the network's first place that leads to this Unix socket while the block runs."""
    (place, *_) = network.places
    command = place.inside(sys.executable, "-m", "tests.faults.far_service", place.address, str(socket))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_REPOSITORY) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        yield int(there.stdout.readline())
        there.stdin.close()


def main() -> None:
    address, socket = sys.argv[1:]
    with Proxy(Path(socket), at=address) as proxy:
        print(proxy.port, flush=True)  # noqa: T201  # what its owner waits for
        sys.stdin.read()


if __name__ == "__main__":
    main()
