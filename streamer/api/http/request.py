"""One request and its answer, between the ASGI application and a version of HTTP."""

import asyncio
from collections import deque
from typing import Any, Protocol
from urllib.parse import unquote

from streamer.api.http.asgi import Headers, Message, Scope

ROOM_BYTES = 65_536  # how much of an answer may wait for the client before the application waits too


class Wire(Protocol):
    """A version of HTTP, as a request uses it."""

    def head(self, request: "Request", status: int, headers: Headers, bytes_in_all: int | None) -> None:
        """Begin the answer; `bytes_in_all` is its length where it is known."""

    def data(self, request: "Request", data: bytes, last: bool) -> None:
        """Send a part of the answer."""

    def trailers(self, request: "Request", headers: Headers) -> None:
        """End the answer with trailers."""

    def unsent_bytes(self, request: "Request") -> int:
        """How much of the answer still waits for the client."""

    def consumed(self, request: "Request", count: int) -> None:
        """`count` bytes of the body were passed to the application."""

    def broke_off(self, request: "Request") -> None:
        """The application ended before its answer did."""


class Request:
    """What `receive` and `send` of ASGI are for one request."""

    __slots__ = (
        "_body", "_complete", "_room", "_told", "_waiting", "_wire", "answered", "began", "bodiless", "body_bytes", "gone",
        "number", "scope", "start", "task",
    )  # fmt: skip

    def __init__(self, wire: Wire, number: int, scope: Scope) -> None:
        """`number` is the stream's; HTTP/1.1 has one request at a time."""
        self.scope, self.number, self._wire = scope, number, wire
        self.task: asyncio.Task[None] | None = None
        self.gone = False  # the client does not wait for the answer any more
        self.answered = False  # the application has given all of its answer
        self.began = False  # the answer's head was sent
        self.bodiless = scope["method"] == "HEAD"
        self.start: Message = {}
        self.body_bytes = 0  # received and not yet consumed
        self._body: deque[tuple[bytes, int]] = deque()
        self._complete = self._told = False
        self._waiting: asyncio.Future[None] | None = None  # receive waits
        self._room: asyncio.Future[None] | None = None  # send waits

    def feed(self, data: bytes, count: int) -> None:
        """A part of the body arrived, which counts `count` bytes of flow control."""
        self._body.append((data, count))
        self.body_bytes += count
        _wake(self._waiting)

    def complete(self) -> None:
        """The body is complete."""
        self._complete = True
        _wake(self._waiting)

    @property
    def received(self) -> bool:
        """Whether the body is complete."""
        return self._complete

    def leave(self) -> None:
        """The client is gone: `receive` says so, and what is sent is dropped."""
        self.gone = True
        _wake(self._waiting)
        _wake(self._room)

    def drained(self) -> None:
        """There is room for more of the answer."""
        _wake(self._room)

    async def receive(self) -> Message:
        """See ASGI."""
        while not (self.gone or self._body or (self._complete and not self._told)):
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        if self.gone:
            return {"type": "http.disconnect"}
        body = b""
        if self._body:
            body, count = self._body.popleft()
            self.body_bytes -= count
            self._wire.consumed(self, count)
        self._told = self._complete and not self._body
        return {"type": "http.request", "body": body, "more_body": not self._told}

    async def send(self, message: Message) -> None:
        """See ASGI; dropped when the client is gone."""
        if self.gone:
            return
        match message["type"]:
            case "http.response.start":
                self.start = message
                self.bodiless = self.bodiless or message["status"] in (204, 304)
            case "http.response.body":
                await self._send_body(message)
            case "http.response.trailers":
                self.answered = True
                self._wire.trailers(self, message["headers"])

    async def _send_body(self, message: Message) -> None:
        data, more = message.get("body", b""), message.get("more_body", False)
        last = not (more or self.start.get("trailers"))
        if not self.began:
            self.began = True
            self._wire.head(self, self.start["status"], self.start["headers"], len(data) if last else None)
        self.answered = last
        self._wire.data(self, b"" if self.bodiless else data, last)
        while more and not self.gone and self._wire.unsent_bytes(self) > ROOM_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def ended(self) -> None:
        """The application has returned, or failed."""
        if not (self.answered or self.gone):
            self._wire.broke_off(self)


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def scope_of(version: str, method: str, target: bytes, headers: Headers, connection: Any) -> Scope:
    """ASGI's description of a request; `connection` has `scheme`, `client` and `server`."""
    path, _, query = target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": version,
        "method": method,
        "scheme": connection.scheme,
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": connection.client,
        "server": connection.server,
        "extensions": {"http.response.trailers": {}} if version == "2" else {},
    }
