"""The job by hand, and with care: each hop reads batches, one transaction and one run of confirms for each of them.

No lanes, no claims, no history: what a batch made is in the next queue, whole. Each hop is a process.

    python -m bus.bench.handwritten_peer receive|transform|send
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import psycopg

from bus.bench.batched import Hop, Onward
from bus.bench.job import OUT, RECEIVE, SEND, TRANSFORM, routing_key_out
from bus.bench.ledger import ACCEPT_MANY, RECORD_MANY
from bus.bench.order_model import Job, Order, job_of


class Hand:
    """The three hops over one connection to PostgreSQL."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def receive(self, batch: Sequence[Any]) -> list[Onward]:
        bodies = [each.body for each in batch]
        orders = [Order.model_validate_json(body) for body in bodies]
        ids = [order.order.id for order in orders]
        subjects = [f"order:{number}" for number in ids]
        sites, routes = [order.site for order in orders], [order.route for order in orders]
        self._connection.execute(ACCEPT_MANY, (ids, sites, subjects, bodies, routes))
        return [Onward("", TRANSFORM, body, number) for body, number in zip(bodies, ids, strict=True)]

    def transform(self, batch: Sequence[Any]) -> list[Onward]:
        jobs = [job_of(Order.model_validate_json(each.body)) for each in batch]
        bodies = [job.model_dump_json().encode() for job in jobs]
        self._record("transformed", [job.jobId for job in jobs], bodies)
        return [Onward("", SEND, body, job.jobId) for job, body in zip(jobs, bodies, strict=True)]

    def send(self, batch: Sequence[Any]) -> list[Onward]:
        jobs = [Job.model_validate_json(each.body) for each in batch]
        return [
            Onward(OUT, routing_key_out(job.site), each.body, job.jobId) for job, each in zip(jobs, batch, strict=True)
        ]

    def sent(self, batch: Sequence[Any]) -> None:
        ids = [each.properties["message_id"] for each in batch]
        self._record("sent", ids, [None] * len(ids))

    def _record(self, step: str, ids: list[str], bodies: Sequence[bytes | None]) -> None:
        self._connection.execute(RECORD_MANY, (step, ids, list(bodies)))


def main(name: str) -> None:
    hand = Hand(os.environ["BENCH_LEDGER"])
    if name == SEND:
        Hop(os.environ["BENCH_BROKER"], name, hand.send, done=hand.sent).run()
    else:
        Hop(os.environ["BENCH_BROKER"], name, {RECEIVE: hand.receive, TRANSFORM: hand.transform}[name]).run()


if __name__ == "__main__":
    main(sys.argv[1])
