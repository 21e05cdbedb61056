"""The job as a good user of Celery writes it: three tasks, one transaction each; read by `celery -A` as `app`.

Acks late, workers lost are noticed, publishes confirmed, quorum queues (so the prefetch is per consumer), results,
events and remote control off: nothing runs that the job does not need.
"""

from __future__ import annotations

import json
import os
from typing import Any

import psycopg
from celery import Celery
from celery.signals import worker_process_init

from bus.bench.job import OUT, RECEIVE, SEND, TRANSFORM, routing_key_out
from bus.bench.ledger import ACCEPT, RECORD
from bus.bench.order_model import Order, job_of

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    task_queues={name: {"queue_arguments": {"x-queue-type": "quorum"}} for name in (RECEIVE, TRANSFORM, SEND)},
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=16,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
)

_connections: list[psycopg.Connection] = []


def _connect(**_: Any) -> None:
    _connections.append(psycopg.connect(os.environ["BENCH_LEDGER"], autocommit=True))


worker_process_init.connect(_connect)


def _record(statement: str, *values: object) -> None:
    _connections[0].execute(statement, values)


def _receive(document: dict[str, Any]) -> None:
    order = Order.model_validate(document)
    number = order.order.id
    _record(ACCEPT, number, order.site, f"order:{number}", json.dumps(document).encode(), order.route)
    transform.apply_async((document,), queue=TRANSFORM)


def _transform(document: dict[str, Any]) -> None:
    job = job_of(Order.model_validate(document))
    body = job.model_dump_json()
    _record(RECORD, job.jobId, "transformed", body.encode())
    send.apply_async((job.jobId, job.site, body), queue=SEND)


def _send(number: str, site: str, body: str) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            body.encode(),
            exchange=OUT,
            routing_key=routing_key_out(site),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            mandatory=True,
            message_id=number,
        )
    _record(RECORD, number, "sent", None)


receive = app.task(_receive, name=RECEIVE)
transform = app.task(_transform, name=TRANSFORM)
send = app.task(_send, name=SEND)
