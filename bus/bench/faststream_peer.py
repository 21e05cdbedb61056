"""The job as a good user of FastStream writes it: three handlers, one transaction each, many at a time on one loop.

Acknowledged after the handler, publishes confirmed, quorum queues, orders checked by their pydantic type. As many
handlers run at a time as messages are prefetched, so that PostgreSQL and RabbitMQ sync many of them at once. The loop
is uvloop's, as `faststream run` has it where it is installed: 5 to 14 % less work for the processor.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitMessage, RabbitQueue
from faststream.rabbit.schemas import QueueType

from bus.bench.job import OUT, RECEIVE, SEND, TRANSFORM, routing_key_out
from bus.bench.ledger import ACCEPT, RECORD
from bus.bench.order_model import Job, Order, job_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PREFETCH = 32
CONNECTIONS = 12
"""In each process; twice as many of both made no difference that stood out of the noise."""

broker = RabbitBroker(
    os.environ["BENCH_BROKER"],
    default_channel=Channel(prefetch_count=PREFETCH),
    log_level=logging.DEBUG,  # one line for each message is not part of the job
    logger=None,
)
out = RabbitExchange(OUT, type=ExchangeType.TOPIC, durable=True)
idle: asyncio.Queue[psycopg.AsyncConnection] = asyncio.Queue()


async def _record(statement: str, *values: object) -> None:
    connection = await idle.get()
    try:
        await connection.execute(statement, values)
    finally:
        idle.put_nowait(connection)


async def receive(order: Order, message: RabbitMessage) -> None:
    number = order.order.id
    await _record(ACCEPT, number, order.site, f"order:{number}", message.body, order.route)
    await broker.publish(message.body, TRANSFORM, persist=True, message_id=number, content_type="application/json")


async def transform(order: Order) -> None:
    job = job_of(order)
    body = job.model_dump_json().encode()
    await _record(RECORD, job.jobId, "transformed", body)
    await broker.publish(body, SEND, persist=True, message_id=job.jobId, content_type="application/json")


async def send(job: Job, message: RabbitMessage) -> None:
    await broker.publish(
        message.body,
        exchange=out,
        routing_key=routing_key_out(job.site),
        persist=True,
        message_id=job.jobId,
        content_type="application/json",
    )
    await _record(RECORD, job.jobId, "sent", None)


for name, handler in ((RECEIVE, receive), (TRANSFORM, transform), (SEND, send)):
    queue = RabbitQueue(name, queue_type=QueueType.QUORUM, durable=True)
    broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)(handler)


@asynccontextmanager
async def connections() -> AsyncIterator[None]:
    opened = [
        await psycopg.AsyncConnection.connect(os.environ["BENCH_LEDGER"], autocommit=True) for _ in range(CONNECTIONS)
    ]
    for connection in opened:
        idle.put_nowait(connection)
    yield
    for connection in opened:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(FastStream(broker, lifespan=connections, logger=None).run())
