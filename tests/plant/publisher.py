"""Publishes a book's outbox to RabbitMQ: confirmed, mandatory, again after a lost connection."""

import logging
import threading
from contextlib import suppress

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    NackError,
    UnroutableError,
)

from tests.plant.book import Book, Publication

log = logging.getLogger(__name__)

ACCESS_REFUSED = 403
PRECONDITION_FAILED = 406
LONGEST_PAUSE = 5.0


class Publisher:
    """One thread, one connection. Without an address the outbox just fills."""

    def __init__(self, book: Book, address: str | None) -> None:
        self._book = book
        self._address = address
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._connection: pika.BlockingConnection | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.trouble = "" if address else "no broker address was given"

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    def start(self) -> None:
        if self._address:
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=0.7)

    def wake(self) -> None:
        """Say that the outbox holds something new."""
        self._news.set()
        connection = self._connection
        if connection is not None:
            with suppress(AMQPError):
                connection.add_callback_threadsafe(_nothing)

    def _run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            try:
                self._connection = pika.BlockingConnection(self._parameters())
                pause = 0.1
                self._serve(self._connection)
            except (AMQPError, OSError) as error:
                self._report(error)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            finally:
                self._hang_up()

    def _parameters(self) -> pika.URLParameters:
        parameters = pika.URLParameters(self._address)
        parameters.heartbeat = 30
        # pika waits for ever on a broker in alarm; a plant system reconnects and tries again.
        parameters.blocked_connection_timeout = 60
        return parameters

    def _serve(self, connection: pika.BlockingConnection) -> None:
        channel = _confirming_channel(connection)
        self.trouble = ""
        while not self._stopping.is_set():
            self._news.clear()
            if not channel.is_open:
                channel = _confirming_channel(connection)
            batch = self._book.pending_publications()
            for n, publication in batch:
                # What could not be sent goes first again: later ones must not overtake it.
                if self._stopping.is_set() or not self._publish(channel, n, publication):
                    break
            if not batch and not self._news.is_set():
                connection.process_data_events(time_limit=1)

    def _publish(self, channel: BlockingChannel, n: int, publication: Publication) -> bool:
        """True when the next one may follow: the broker took this one or returned it."""
        try:
            channel.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.body,
                pika.BasicProperties(**publication.properties),
                mandatory=True,
            )
        except UnroutableError:
            self._book.settle_publication(n, "returned", "no queue takes this routing key")
        except NackError:
            self._postpone(n, "nacked by the broker", seconds=0.2)
            return False
        except ChannelClosedByBroker as error:
            self._note_closing(n, error)
            return False
        else:
            self._book.settle_publication(n, "confirmed")
        self.trouble = ""
        return True

    def _note_closing(self, n: int, error: ChannelClosedByBroker) -> None:
        detail = f"{error.reply_code} {error.reply_text}"
        if error.reply_code in (ACCESS_REFUSED, PRECONDITION_FAILED):
            self._book.settle_publication(n, "refused", detail)
        else:
            # A missing exchange (404) is declared by the bus sooner or later.
            self._postpone(n, detail, seconds=0.5)

    def _postpone(self, n: int, detail: str, *, seconds: float) -> None:
        self._book.settle_publication(n, "pending", detail)
        self.trouble = detail
        self._stopping.wait(seconds)

    def _report(self, error: Exception) -> None:
        self.trouble = f"{type(error).__name__}: {error}"
        level = logging.WARNING if isinstance(error, AMQPConnectionError) else logging.ERROR
        log.log(level, "broker connection lost: %s", self.trouble)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.is_open:
            with suppress(AMQPError, OSError):
                connection.close()


def _confirming_channel(connection: pika.BlockingConnection) -> BlockingChannel:
    channel = connection.channel()
    channel.confirm_delivery()
    return channel


def _nothing() -> None:
    """Makes `process_data_events` return."""
