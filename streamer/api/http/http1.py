"""HTTP/1.1 (and 1.0) by the library h11: one request at a time, the next one when its answer is on the way."""

from typing import TYPE_CHECKING

import h11

from streamer.api.http.asgi import Headers
from streamer.api.http.request import Request, scope_of

if TYPE_CHECKING:
    from streamer.api.http.connection import Connection

HEAD_BYTES = 16_384  # largest head of a request
SLICE_BYTES = 16_384  # what h11 gets at once


class Http1:
    """One client's connection; see request.Wire for what requests call."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._request: Request | None = None
        self._ending = False
        self._partial = False  # h11 holds a part of a head
        self.unsent = 0  # what is sent is in the transport at once
        self.stuck = 0  # see Http2
        self.left = False  # h11 holds the beginning of another request

    @property
    def mid_head(self) -> bool:
        """Whether the head of a request has begun and not ended."""
        return self._partial

    def take(self, received: bytearray) -> bool:
        """Work on what was received, up to the end of the next request; returns whether anything was done."""
        if self._request is not None and (self._h11.their_state is h11.DONE or self._request.body_bytes >= SLICE_BYTES):
            return False
        if received:
            self._h11.receive_data(bytes(received[:SLICE_BYTES]))
            del received[:SLICE_BYTES]
        elif not self.left:
            return False
        self.left = False
        try:
            while self._event():
                pass
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)
            return False
        return bool(received)

    def _event(self) -> bool:
        """Handle the next event; returns whether another may follow."""
        event = self._h11.next_event()
        self._partial = event is h11.NEED_DATA and self._request is None and bool(self._h11.trailing_data[0])
        match event:
            case h11.Request():
                return self._begin(event)
            case h11.Data():
                if self._request is not None:
                    self._request.feed(bytes(event.data), len(event.data))
                    self._connection.body_bytes += len(event.data)
                return True
            case h11.EndOfMessage():
                if self._request is not None:
                    self._request.complete()
                return False
        return False

    def _begin(self, event: h11.Request) -> bool:
        headers = list(event.headers)
        version, method = event.http_version.decode(), event.method.decode("latin-1").upper()
        request = Request(self, 1, scope_of(version, method, event.target, headers, self._connection))
        if not self._connection.begin(request):
            self._refuse(503)
            return False
        self._request = request
        if self._h11.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        return True

    def _refuse(self, status: int) -> None:
        """Answer what cannot be read, or not now, and close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not (self._request and self._request.began):
            self._send(h11.Response(status_code=status, headers=[(b"content-length", b"0"), (b"connection", b"close")]))
            self._send(h11.EndOfMessage())
        self._connection.finish()

    def _send(self, event: h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage) -> None:
        try:
            data = self._h11.send(event)
        except h11.LocalProtocolError:  # the client has broken off
            self._connection.close()
        else:
            self._connection.write(data or b"")

    def head(self, request: Request, status: int, headers: Headers, bytes_in_all: int | None) -> None:
        """See Wire."""
        fields = [*headers, (b"date", self._connection.date())]
        if bytes_in_all is not None and not any(name == b"content-length" for name, _ in headers):
            fields.append((b"content-length", b"%d" % bytes_in_all))
        if self._ending:
            fields.append((b"connection", b"close"))
        self._send(h11.Response(status_code=status, headers=fields))

    def data(self, request: Request, data: bytes, last: bool) -> None:
        """See Wire."""
        if data:
            self._send(h11.Data(data=data))
        if last:
            self._send(h11.EndOfMessage())
            self._finish(request)
        self._connection.pump_soon()

    def trailers(self, request: Request, headers: Headers) -> None:
        """See Wire; HTTP/1.1 clients are not promised any."""
        self.data(request, b"", True)

    def unsent_bytes(self, request: Request) -> int:
        """See Wire."""
        return self._connection.outgoing_bytes()

    def consumed(self, request: Request, count: int) -> None:
        """See Wire."""
        self._connection.body_bytes -= count
        self._connection.pump_soon()

    def broke_off(self, request: Request) -> None:
        """See Wire."""
        if not request.began:
            self._refuse(500)
        else:
            self._connection.close()

    def _finish(self, request: Request) -> None:
        if self._request is None:  # the connection was closed in the meantime, and has counted it out
            return
        self._connection.body_bytes -= request.body_bytes
        request.body_bytes = 0
        self._request = None
        self._connection.end(request)
        self._connection.took()
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE and not self._ending:
            self._h11.start_next_cycle()
            self.left = bool(self._h11.trailing_data[0])
        else:
            self._connection.finish()

    def pump(self) -> None:
        """Go on after the client has read."""
        if self._request is not None and not self._connection.blocked:
            self._request.drained()
        self._connection.pumped()

    def leave(self) -> None:
        """The connection is gone."""
        if self._request is not None:
            request, self._request = self._request, None
            self._connection.leave([request])

    def forget(self) -> None:
        """Nothing is sent or received any more."""

    def refuse(self, request: Request) -> None:
        """A request that was not begun is not answered now."""
        self._refuse(503)

    def announce_end(self) -> None:
        """The next answer is the last one; a client that waits for none is not warned, as HTTP/1.1 has no way to."""
        self._ending = True

    def last_words(self, calm: bool) -> bytes:
        """HTTP/1.1 has none."""
        return b""
