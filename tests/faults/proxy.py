"""A proxy between the bus and a service that cuts, stalls, refuses or swallows; of AMQP also chosen frames only."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_GREETING = 8  # bytes a client says before the first frame
_FRAME_HEAD = 7  # type, AMQP channel, size of the payload
_METHOD = 1
_BASIC_ACK = (60, 80)
_PIECE = 65_536


_Pair = tuple[asyncio.StreamWriter, asyncio.StreamWriter]
"""The end towards the client, the end towards the service."""


class Side(Enum):
    """Who speaks."""

    CLIENT = auto()
    SERVICE = auto()


class Proxy:
    """Forwards TCP connections to a port or Unix socket; every method may be called from any thread.

    `amqp`: what is forwarded are whole AMQP 0-9-1 frames, so that single ones can be lost.
    """

    def __init__(self, target: tuple[str, int] | Path, *, amqp: bool = False, at: str = "127.0.0.1") -> None:
        """`at`: the address where it listens."""
        self._target = target
        self._amqp = amqp
        self._pairs: set[_Pair] = set()
        self._abandoned: set[_Pair] = set()
        self._believed: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._swallows = False
        self._lost: set[Side] = set()
        self.arrivals: list[float] = []
        """When each connection was asked for, in seconds of the monotonic clock; those that were refused too."""
        self.dropped = dict.fromkeys(Side, 0)
        """Acknowledgements lost so far: those of a client, or a service's confirms."""
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, at, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def url(self, service_url: str) -> str:
        """The same service, reached through this proxy."""
        parts = urlsplit(service_url)
        user, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """End every connection there is; new ones are taken. Returns when both sides were told."""
        self._do(self._end_all())

    def refuse(self) -> None:
        """As cut, and from now on every new connection is ended at once."""
        self._refuses = True
        self.cut()

    def accept(self) -> None:
        self._refuses = False

    def stall(self) -> None:
        """Nothing goes through any more, nobody is told, and nothing is lost."""
        self._soon(self._flows.clear)

    def flow(self) -> None:
        self._soon(self._flows.set)

    def swallow(self) -> None:
        """Whatever either side says is lost, and connections stay open: the network is a black hole. Ends with cut."""
        self._swallows = True

    def abandon(self) -> None:
        """The connections there are become half-open: whatever is said on them is lost, an end that one side makes is
        not told to the other. New ones go through."""
        self._do(self._abandon_all())

    @property
    def believed(self) -> int:
        """Abandoned connections that their client did not give up yet."""
        return len(self._believed)

    def deliver(self) -> None:
        """No longer swallow: connections that lost something are ended, for their streams have holes."""
        self._swallows = False
        self.cut()

    def lose_confirms(self) -> None:
        """The broker's confirms of publications vanish, everything else goes through."""
        self._lost.add(Side.SERVICE)

    def lose_acks(self) -> None:
        """Consumers' acknowledgements vanish on their way to the broker, everything else goes through."""
        self._lost.add(Side.CLIENT)

    def lose_nothing(self) -> None:
        """Acknowledgements go through again; what was lost stays so."""
        self._lost.clear()

    def say_to_service(self, frame: bytes) -> None:
        """Say one more AMQP frame on every connection, as if its client had said it."""
        self._do(self._say(frame))

    @property
    def open(self) -> int:
        """Connections that go through now."""
        return len(self._pairs)

    def close(self) -> None:
        self._soon(self._server.close)
        self._soon(self._flows.set)
        self.cut()
        self._do(self._wait_for_tasks())
        self._soon(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- in the loop's thread ----------------------------------------------------------------------------------------

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def _soon(self, step: Callable[[], None]) -> None:
        """Have it done in the loop's thread, after everything asked for before."""
        self._loop.call_soon_threadsafe(step)

    async def _wait_for_tasks(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _end_all(self) -> None:
        pairs, self._pairs, self._abandoned = self._pairs | self._abandoned, set(), set()
        self._believed.clear()
        for pair in pairs:
            for end in pair:
                end.transport.abort()

    async def _abandon_all(self) -> None:
        self._abandoned |= self._pairs
        self._believed |= self._pairs
        self._pairs = set()

    async def _say(self, frame: bytes) -> None:
        for _, back in self._pairs:
            back.write(frame)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrivals.append(time.monotonic())
        try:
            if self._refuses:
                raise ConnectionRefusedError
            there, back = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back)
        self._pairs.add(pair)
        for side, source, sink in ((Side.CLIENT, reader, back), (Side.SERVICE, there, writer)):
            task = asyncio.ensure_future(self._pump(side, source, sink, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, Path):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection(*self._target)

    async def _pump(
        self,
        side: Side,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: _Pair,
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if self._amqp and side is Side.CLIENT:
                sink.write(await source.readexactly(_GREETING))
            while piece := await self._piece(source):
                await self._flows.wait()
                if self._swallows or pair in self._abandoned or self._loses(side, piece):
                    continue
                sink.write(piece)
                await sink.drain()
        self._pairs.discard(pair)
        ends: tuple[asyncio.StreamWriter, ...] = pair
        if pair in self._abandoned:
            ends = pair[:1] if side is Side.CLIENT else pair[1:]
            if side is Side.CLIENT:
                self._believed.discard(pair)
        for end in ends:
            end.transport.abort() if end.transport.is_closing() else end.close()

    async def _piece(self, source: asyncio.StreamReader) -> bytes:
        if not self._amqp:
            return await source.read(_PIECE)
        head = await source.readexactly(_FRAME_HEAD)
        return head + await source.readexactly(int.from_bytes(head[3:7]) + 1)

    def _loses(self, side: Side, frame: bytes) -> bool:
        if side not in self._lost or frame[0] != _METHOD:
            return False
        method = (int.from_bytes(frame[7:9]), int.from_bytes(frame[9:11]))
        self.dropped[side] += method == _BASIC_ACK
        return method == _BASIC_ACK
