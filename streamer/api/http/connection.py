"""One client's connection: which version of HTTP it speaks, what it holds, and how long things may take."""

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from streamer.api.errors import LOG
from streamer.api.http.bounds import Peer
from streamer.api.http.http1 import Http1
from streamer.api.http.http2 import PREFACE, Http2
from streamer.api.http.request import Request
from streamer.api.http.turns import OWED_TURNS
from streamer.core.answers import Refusal

if TYPE_CHECKING:
    from streamer.api.http.front import Front

UNREAD_BYTES, UNTAKEN = 65_536, 4  # a client that has so many bytes, or answers, to take gets no further work done
RECEIVED_BYTES = 65_536  # received and not worked on: beyond it nothing is read
LINGER_S = 1.0  # between the warning that a connection ends and its end
TAKEN_BYTES = 16_384  # a client takes its answers if it takes so much, or everything, in the time allowed


class Connection(asyncio.BufferedProtocol):
    """Moves bytes between a transport and a version of HTTP; what is not allowed to grow or to last is seen to here."""

    def __init__(self, front: "Front", peer: Peer, accepted: socket.socket, tls: bool) -> None:
        self.peer, self.scheme = peer, "https" if tls else "http"
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.requests = self.held_bytes = self.body_bytes = 0
        self.turns = self.good_until = 0
        self.since = self.heard = self.taken = front.now()  # last request, last byte received, last answer taken
        self.closing = self.blocked = False
        self._front, self._accepted = front, accepted
        self._transport: asyncio.Transport | None = None
        self._wire: Http1 | Http2 | None = None
        self._received = bytearray()
        self._queue: deque[Request] = deque()  # not begun
        self._paused = self._pumping = self._finishing = False
        self._started = False  # a request, in this turn
        self._head_since: float | None = (
            self.since
        )  # since when the head of a request, or the first byte, is waited for
        self._ending_since: float | None = None
        self._written = self._taken_bytes = 0

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        self.client, self.server = _address(transport, "peername"), _address(transport, "sockname")
        ssl = transport.get_extra_info("ssl_object")
        if self.closing:
            self._transport.abort()
        elif ssl is not None and ssl.selected_alpn_protocol() == "h2":
            self._wire = Http2(self, self._front.limits.max_streams)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio; all connections share one, because what it holds is copied at once."""
        return self._front.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        self._received += self._front.buffer[:nbytes]
        self.heard = self._front.now()
        self._front.turns.take(self)
        if len(self._received) >= RECEIVED_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self.weigh()

    def eof_received(self) -> bool:
        """See asyncio."""
        return False

    def pause_writing(self) -> None:
        """See asyncio: the client does not read."""
        self.blocked = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self.blocked = False
        self.pump()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self.closing = True
        self._front.turns.leave(self)
        if self._wire is not None:
            self._wire.leave()
            self._wire.forget()
            self._wire = None
        self._queue.clear()
        self._received.clear()
        self._transport = None  # with TLS it refers to this object, and neither would be freed at once
        self._front.forget(self)

    # What turns are for

    def turn(self) -> bool:
        """Begin one request, or work on a little of what was received; returns whether there is more to do."""
        self._started = False
        if self.closing or self.blocked:
            return False
        if self._queue and self._takes():
            self._start(self._queue.popleft())
            return bool(self._queue or self._received)
        if self._wire is None and not self._choose():
            return False
        assert self._wire is not None
        done = self._wire.take(self._received)
        if self.closing:
            return False
        self._mark_head()
        if self._paused and len(self._received) < RECEIVED_BYTES // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self.weigh()
        return (done and bool(self._received or self._more())) or (bool(self._queue) and self._takes())

    def _choose(self) -> bool:
        """HTTP/2 begins with words of its own, whatever TLS has agreed on."""
        begin = bytes(self._received[: len(PREFACE)])
        if not PREFACE.startswith(begin):
            self._wire = Http1(self)
        elif len(begin) == len(PREFACE):
            self._wire = Http2(self, self._front.limits.max_streams)
        return self._wire is not None

    def _mark_head(self) -> None:
        if self._wire is not None and not self._wire.mid_head:
            self._head_since = None
        elif self._head_since is None:
            self._head_since = self._front.now()

    # What a version of HTTP calls

    def begin(self, request: Request) -> bool:
        """Let the application answer when it is this connection's turn; returns False when it must be refused."""
        if self._front.stopping or not self._front.bounds.admit(self):
            return False
        self.since = self._front.now()
        if self._started or self._queue or self._front.turns.crowded or not self._takes():
            self._queue.append(request)
        else:
            self._start(request)
        return True

    def _start(self, request: Request) -> None:
        self._started = True
        if not request.gone:
            self._front.turns.begun += 1
            request.task = asyncio.get_running_loop().create_task(self._run(request))
            self._front.tasks.add(request.task)
            request.task.add_done_callback(self._front.tasks.discard)

    async def _run(self, request: Request) -> None:
        self._front.turns.begun -= 1
        try:
            await self._front.app(request.scope, request.receive, request.send)
        except Exception:
            LOG.exception("a request failed")
        finally:
            if not self.closing:
                request.ended()

    def end(self, request: Request) -> None:
        """A request is not in hand any more: answered, or its client has left."""
        self.since = self._front.now()
        self._front.bounds.count(self, -1)
        if request.task is None:
            request.gone = True
        else:
            request.leave()

    def leave(self, requests: list[Request]) -> None:
        """The client has left all of these."""
        self._front.bounds.count(self, -len(requests))
        for request in requests:
            request.gone = True
        self._front.part(request for request in requests if request.task is not None)

    def now(self) -> float:
        """The loop's clock."""
        return self._front.now()

    def took(self) -> None:
        """The client has taken an answer, as far as can be seen here."""
        if not self.blocked:
            self.good_until = self.turns + OWED_TURNS

    def date(self) -> bytes:
        """The value of the header `date`."""
        return self._front.date()

    def write(self, data: bytes) -> None:
        """Give bytes to the transport."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._written += len(data)
            self._transport.write(data)

    def pump_soon(self) -> None:
        """Send what can be sent, once for all that is said in this round of the loop."""
        if not self._pumping and not self.closing:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        """Send what can be sent, then go on with what had to wait for that."""
        self._pumping = False
        if self._wire is not None and not self.closing:
            self._wire.pump()

    def pumped(self) -> None:
        """Something may have been sent: weigh what is left, and go on."""
        self.weigh()
        if self._finishing and not self.closing and self._transport is not None:
            self.closing = True
            self._transport.close()
        elif not self.closing and not self.blocked and (self._received or self._queue or self._more()):
            self._front.turns.want(self)

    def _more(self) -> bool:
        return self._wire is not None and self._wire.left

    # What is held

    def outgoing_bytes(self) -> int:
        """Sent, and not taken by the client's side yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def unread_bytes(self) -> int:
        """What the client has to take."""
        return self.outgoing_bytes() + (self._wire.unsent if self._wire is not None else 0)

    def _takes(self) -> bool:
        """Whether the client takes its answers; if not, nothing further is begun for it."""
        stuck = self._wire.stuck if self._wire is not None else 0
        return stuck < UNTAKEN and self.unread_bytes() < UNREAD_BYTES

    def weigh(self) -> None:
        """Count what is held for this client."""
        if not self.closing:
            held = len(self._received) + self.body_bytes + self.unread_bytes()
            if held != self.held_bytes:
                self._front.bounds.hold(self, held)

    # How it ends

    def look(self, now: float) -> None:
        """Close what takes too long, and what has been idle for long."""
        limits, transport = self._front.limits, self._transport
        if self.closing or transport is None:
            if transport is not None and now - self.heard > LINGER_S + limits.answer_timeout_s:
                transport.abort()
            return
        self.weigh()
        unread, gone = self.unread_bytes(), self._written - self.outgoing_bytes()
        if not unread or gone - self._taken_bytes >= TAKEN_BYTES:
            self.taken, self._taken_bytes = now, gone
        if now - self.taken > limits.answer_timeout_s:
            self.close(Refusal.ANSWERS_NOT_TAKEN)
        elif self._head_since is not None and now - self._head_since > limits.head_timeout_s:
            self.close(Refusal.NO_HEAD)
        elif self.requests or unread:
            self._ending_since = now if self._ending_since is not None else None
        elif self._ending_since is not None:
            if now - self._ending_since > LINGER_S:
                self.close()
        elif now - max(self.heard, self.since) > limits.idle_timeout_s:
            self.announce_end(now)

    def announce_end(self, now: float) -> None:
        """Warn the client that this connection ends; it ends when nothing is in hand."""
        if self._wire is None or (isinstance(self._wire, Http1) and not self.requests):
            self.close()
            return
        self._wire.announce_end()
        if self._ending_since is None:
            self._ending_since = now

    def refuse_waiting(self) -> None:
        """Give back the requests that have not begun."""
        while self._queue and self._wire is not None and not self.closing:
            self._wire.refuse(self._queue.popleft())
        self.pump()

    def finish(self) -> None:
        """Close as soon as what is written is on its way."""
        self._finishing = True
        self.pump_soon()

    def close(self, why: Refusal | None = None, details: str | None = None) -> None:
        """Close now, whatever is in hand; `why`, if the client is to blame, with details for the log."""
        if self.closing:
            return
        if why is not None:
            self._front.bounds.note(self.peer, why, details)
        unread = self.outgoing_bytes()
        if self._wire is not None:
            self.write(self._wire.last_words(why is None))
            self._wire.leave()
        self.closing = True
        self._front.turns.leave(self)
        self._queue.clear()
        self._front.bounds.leave(self)
        if self._transport is None:
            with suppress(OSError):  # the client has left
                self._accepted.shutdown(socket.SHUT_RDWR)  # ends its TLS handshake
        elif unread:
            self._transport.abort()
        else:
            self._transport.close()

    def abort(self) -> None:
        """End at once a connection that was closed: its client does not answer the end of TLS, or its TLS never began."""
        if self._transport is None:
            self._accepted.close()
        else:
            self._transport.abort()


def _address(transport: asyncio.BaseTransport, which: str) -> tuple[str, int] | None:
    found: Any = transport.get_extra_info(which)
    return (found[0], found[1]) if isinstance(found, tuple) else None
