"""Accepts connections, looks after them, and stops within a time."""

import asyncio
import asyncio.constants
import asyncio.sslproto
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from time import perf_counter, time

from streamer.api.http.asgi import App
from streamer.api.http.bounds import Bounds, Peer
from streamer.api.http.connection import Connection
from streamer.api.http.request import Request
from streamer.api.http.turns import SLICE_S, Turns
from streamer.core.answers import Refusal
from streamer.core.garbage_collection import give_back_memory
from streamer.core.settings import LimitSettings

BUFFER_BYTES = 65_536
LOOK_S = 1.0  # at most, between two looks at all connections
CALM_S = 5.0  # without anything closed or refused, after which an abuse is over
FULL_S = 0.1  # before a connection is accepted again after the system refused one
DRAIN_S = 0.02  # between two looks at what is left
CANCEL_S = 0.5  # for requests that are cancelled at the end
PART_S = 0.5  # for clients to answer the end of their TLS connection
TLS_READ_BYTES = (
    1 << 14
)  # as much as TLS sends at once: asyncio has a buffer of this size a connection, by default 256 KB


class Front:
    """Serves an ASGI application on a socket."""

    def __init__(
        self, app: App, limits: LimitSettings, tls: ssl.SSLContext | None, refused: Callable[[Refusal], None]
    ) -> None:
        """`refused` is told of everything that is closed or refused because of a bound."""
        self.app, self.limits = app, limits
        self.turns = Turns()
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.stopping = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._tls = tls
        if tls is not None:
            asyncio.sslproto.SSLProtocol.max_size = TLS_READ_BYTES
            # A client may leave before it has all answers: asyncio would warn of each write from the fifth on.
            asyncio.constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES = sys.maxsize  # type: ignore[misc]  # typed as Final, and read at each write
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.bounds = Bounds(limits, self.now, refused)
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._parting: deque[Request] = deque()  # their client has left, and they do not know yet
        self._noted = (0.0, 0)  # when something was last closed or refused, 0 for long ago; how much was in all
        self._date = (0.0, b"")

    def date(self) -> bytes:
        """The time as HTTP writes it, made once a second."""
        now = self.now()
        if now - self._date[0] >= 1.0:
            self._date = now, formatdate(time(), usegmt=True).encode()
        return self._date[1]

    async def run(self, sock: socket.socket, stop: asyncio.Event, stop_s: float) -> None:
        """Serve until `stop` is set; then requests in hand have `stop_s`, and what had not begun is refused."""
        sock.setblocking(False)
        accepting, looking = self._loop.create_task(self._accept(sock)), self._loop.create_task(self._look())
        stopped = self._loop.create_task(stop.wait())
        try:
            await asyncio.wait({accepting, looking, stopped}, return_when="FIRST_COMPLETED")
            accepting.cancel()
            await asyncio.wait({accepting})
            sock.close()
            await self._drain(stop_s)
        finally:
            for task in (accepting, looking, stopped, *self._opening):
                task.cancel()
            sock.close()
            await self._end()
        for task in (accepting, looking):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _accept(self, sock: socket.socket) -> None:
        """For a short time in a round of the loop, so that a flood of connections leaves room for requests."""
        until = 0.0
        while True:
            if perf_counter() > until:
                await asyncio.sleep(0)
                until = perf_counter() + SLICE_S
            try:
                accepted, address = await self._loop.sock_accept(sock)
            except OSError as error:  # too many open files, or a client that has left
                self.bounds.note(Peer("the system"), Refusal.NOT_ACCEPTED, error.strerror)
                await asyncio.sleep(FULL_S)
                continue
            connection = Connection(self, self.bounds.peer(address[0]), accepted, self._tls is not None)
            self.bounds.enter(connection)
            self._connections.add(connection)
            task = self._loop.create_task(self._open(connection, accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: Connection, accepted: socket.socket) -> None:
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a client may vanish while it watches
            times = {"ssl_handshake_timeout": self.limits.head_timeout_s, "ssl_shutdown_timeout": 1.0}
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, **(times if self._tls else {})
            )
        except (OSError, asyncio.CancelledError) as error:  # ssl.SSLError is an OSError
            # The frames of the failed handshake refer to the error, and to the whole connection: without this they would be kept
            # until the garbage is collected.
            error.__traceback__ = None
            accepted.close()
            connection.closing = True
            self.forget(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is lost."""
        self._connections.discard(connection)
        self.bounds.leave(connection)

    def part(self, requests: Iterable[Request]) -> None:
        """Tell the requests that their client has left, one in a round of the loop: each has an ending of its own to do."""
        if not self._parting:
            self._loop.call_soon(self._part)
        self._parting.extend(requests)

    def _part(self) -> None:
        if self._parting:
            self._parting.popleft().leave()
        if self._parting:
            self._loop.call_soon(self._part)

    async def _look(self) -> None:
        limits = self.limits
        every_s = min(LOOK_S, limits.idle_timeout_s / 4, limits.head_timeout_s / 4, limits.answer_timeout_s / 4)
        while True:
            await asyncio.sleep(every_s)
            now = self.now()
            for connection in list(self._connections):
                connection.look(now)
            self.bounds.tell()
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        """After an abuse, give back the memory that it took."""
        noted = self.bounds.noted
        if noted != self._noted[1]:
            self._noted = now, noted
        elif self._noted[0] and now - self._noted[0] > CALM_S:
            self._noted = 0.0, noted
            self._loop.run_in_executor(None, give_back_memory)

    async def _drain(self, stop_s: float) -> None:
        """Warn the clients, refuse what had not begun, and wait for the rest."""
        self.stopping = True
        now = self.now()
        for connection in list(self._connections):
            connection.refuse_waiting()
            connection.announce_end(now)
        until = now + stop_s
        while (self.tasks or any(one.unread_bytes() for one in self._connections)) and self.now() < until:
            await asyncio.sleep(DRAIN_S)

    async def _end(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=CANCEL_S)
        for connection in list(self._connections):
            connection.close()
        self.bounds.tell(all_of_it=True)
        await asyncio.sleep(0)
        until = self.now() + PART_S
        while self._connections and self.now() < until:
            await asyncio.sleep(DRAIN_S)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
