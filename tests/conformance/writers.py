"""A process of its own for tests: many threads that write to one store, or one that makes its tables."""

from __future__ import annotations

import sys
import threading

from sqlalchemy import insert

from bus.store import tables as t
from bus.store.engine import Database
from bus.store.schema import upgrade


def write_in_turns(address: str, process: str, *, writers: int, turns: int) -> None:
    """Each of the writers notes its name `turns` times, one write transaction each, without a pause."""
    database = Database(address, pool_size=writers)
    begin = threading.Barrier(writers)

    def write(name: str) -> None:
        begin.wait()
        for _ in range(turns):
            with database.write() as connection:
                connection.execute(insert(t.total).values(measure=name, route="", amount=1))

    threads = [threading.Thread(target=write, args=(f"{process}.{number}",)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()


if __name__ == "__main__":
    act, address, *rest = sys.argv[1:]
    print("ready", flush=True)  # noqa: T201  # a signal to the test that started this process
    sys.stdin.readline()
    if act == "upgrade":
        upgrade(Database(address))
    else:
        write_in_turns(address, rest[0], writers=int(rest[1]), turns=int(rest[2]))
