"""The job's way through the broker alone: the same hops in batches, nothing checked, stored or transformed.

python -m bus.bench.limit_peer receive|transform|send
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from bus.bench.batched import Hop, Onward
from bus.bench.job import OUT, RECEIVE, SEND, SITES, TRANSFORM, routing_key_out

_NEXT = {RECEIVE: TRANSFORM, TRANSFORM: SEND}


def pass_on(queue: str, batch: Sequence[Any]) -> list[Onward]:
    return [Onward("", _NEXT[queue], each.body, each.properties["message_id"]) for each in batch]


def send(batch: Sequence[Any]) -> list[Onward]:
    numbers = [each.properties["message_id"] for each in batch]
    keys = [routing_key_out(SITES[int(number) % len(SITES)]) for number in numbers]
    return [Onward(OUT, key, each.body, number) for key, each, number in zip(keys, batch, numbers, strict=True)]


if __name__ == "__main__":
    name = sys.argv[1]
    Hop(os.environ["BENCH_BROKER"], name, send if name == SEND else lambda batch: pass_on(name, batch)).run()
