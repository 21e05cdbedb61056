"""Notes when each job arrives at the MES: reads both queues, one line `<time.monotonic> <message id>` for each.

    python -m bus.bench.reader FILE

It runs as a process of its own, so that it waits for nobody else's Python; the clock is the machine's, for all alike.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import Any

from bus.bench.job import SITES
from bus.bench.load import target
from bus.broker.address import read_addresses
from bus.broker.link import HEARTBEAT, connect, drain


def note(file: int, message: Any) -> None:
    os.write(file, b"%r %s\n" % (time.monotonic(), message.properties["message_id"].encode()))


def main(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    connection = connect(read_addresses(os.environ["BENCH_BROKER"]), name="plantbus bench reader")
    channel = connection.channel()
    channel.auto_decode = False
    for site in SITES:
        channel.basic_consume(target(site), no_ack=True, callback=partial(note, file))
    while True:
        drain(connection, within=HEARTBEAT / 4)
        connection.heartbeat_tick()


if __name__ == "__main__":
    main(sys.argv[1])
