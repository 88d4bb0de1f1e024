"""HTTP/2 by the library h2: frames in, requests out, and answers as far as the client's windows and its reading allow."""

from contextlib import suppress
from typing import TYPE_CHECKING

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame, SettingsFrame

from streamer.api.http.asgi import Headers
from streamer.api.http.frames import MAX_BYTES, whole_frames
from streamer.api.http.request import Request, scope_of
from streamer.core.answers import Refusal

if TYPE_CHECKING:
    from streamer.api.http.connection import Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 16_384  # largest head of a request, unpacked
# A client may open more streams than it is allowed before it hears of it: these are refused, and not the connection's end.
LATE_STREAMS = 64
# Frames that ask for nothing: so many at once, and so many more with each answered request and each second. Some clients of gRPC
# measure the connection with a ping an answer. A reset counts as 10 of them.
CALM_FRAMES, CALM_EACH, CALM_A_SECOND = 2_000, 40, 100
_CONFIG = H2Configuration(
    client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
)


class _Answer:
    """What of an answer is still to be sent."""

    __slots__ = ("data", "last", "request", "trailers")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.data = bytearray()
        self.last = False
        self.trailers: Headers | None = None


class Http2:
    """One client's connection; see request.Wire for what requests call."""

    def __init__(self, connection: "Connection", streams: int) -> None:
        self._connection = connection
        self._streams = streams
        self._h2 = h2 = H2Connection(_CONFIG)
        h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: streams + LATE_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEAD_BYTES,
            },
        )
        h2.decoder.max_header_list_size = HEAD_BYTES
        h2.initiate_connection()
        h2.clear_outbound_data_buffer()
        said = {SettingsFrame.MAX_CONCURRENT_STREAMS: streams, SettingsFrame.MAX_HEADER_LIST_SIZE: HEAD_BYTES}
        connection.write(SettingsFrame(0, settings=said).serialize())
        self._begun = self._ending = False
        self._head_bytes = 0  # of a head that has begun and not ended
        self._requests: dict[int, Request] = {}
        self._answers: dict[int, _Answer] = {}
        self._ready: dict[int, None] = {}  # streams that may have something to send and a window for it, in turn
        self._calm, self._calm_since = CALM_FRAMES, connection.now()
        self.unsent = 0  # bytes of all answers
        self.stuck = 0  # answers that are complete and not taken
        self.left = False  # h2 works on all that it gets

    @property
    def mid_head(self) -> bool:
        """Whether the head of a request, or the preface, has begun and not ended."""
        return self._head_bytes > 0 or not self._begun

    def take(self, received: bytearray) -> bool:
        """Work on the next few frames; returns whether there were any."""
        if not self._begun:
            if len(received) < len(PREFACE):
                return False
            self._begun = True
            data = bytes(received[: len(PREFACE)])
            del received[: len(PREFACE)]
        else:
            frames = whole_frames(received, self._head_bytes)
            if frames.too_large:
                self._connection.close(Refusal.TOO_LARGE)
            if frames.too_large or not frames.size:
                return False
            data = bytes(received[: frames.size])
            del received[: frames.size]
            self._head_bytes = frames.head_bytes
            if not self._is_calm(frames.idle + 10 * frames.resets):
                return False
        self._events(data)
        return True

    def _is_calm(self, frames: int) -> bool:
        """Count frames that ask for nothing; closes the connection when there are too many."""
        self._calm -= frames
        if self._calm < 0:
            now = self._connection.now()
            self._calm = min(CALM_FRAMES, self._calm + int(CALM_A_SECOND * (now - self._calm_since)))
            self._calm_since = now
            if self._calm < 0:
                self._connection.close(Refusal.FLOOD)
        return self._calm >= 0

    def _events(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
            for event in events:
                if self._connection.closing:  # by the event before: no request may begin now
                    return
                self._event(event)
        except ProtocolError as error:
            self._connection.close(Refusal.PROTOCOL_ERROR, type(error).__name__)
            return
        self.pump()

    def _event(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._request(event)
            case DataReceived():
                request = self._requests.get(event.stream_id)
                if request is None or request.gone:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                else:
                    request.feed(event.data, event.flow_controlled_length)
                    self._connection.body_bytes += event.flow_controlled_length
            case StreamEnded():
                request = self._requests.get(event.stream_id)
                if request is not None:
                    request.complete()
            case StreamReset():
                request = self._requests.get(event.stream_id)
                if request is not None:
                    self._gone(request)
            case WindowUpdated():
                self._ready.update(dict.fromkeys([event.stream_id] if event.stream_id else self._answers))
            case RemoteSettingsChanged():
                if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    self._ready.update(dict.fromkeys(self._answers))
            case ConnectionTerminated():
                self._connection.close()

    def _request(self, event: RequestReceived) -> None:
        method, target, authority, headers = "", b"", b"", []
        for name, value in event.headers:
            if name == b":method":
                method = value.decode("latin-1").upper()
            elif name == b":path":
                target = value
            elif name == b":authority":
                authority = value
            elif not name.startswith(b":"):
                headers.append((name, value))
        if authority:
            headers = [(b"host", authority), *(header for header in headers if header[0] != b"host")]
        request = Request(self, event.stream_id, scope_of("2", method, target, headers, self._connection))
        if len(self._requests) < self._streams and self._connection.begin(request):
            self._requests[event.stream_id] = request
            self._answers[event.stream_id] = _Answer(request)
        else:
            self._h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
            self._is_calm(10)

    def head(self, request: Request, status: int, headers: Headers, bytes_in_all: int | None) -> None:
        """See Wire."""
        fields = [(b":status", b"%d" % status), *headers, (b"date", self._connection.date())]
        self._h2.send_headers(request.number, fields)

    def data(self, request: Request, data: bytes, last: bool) -> None:
        """See Wire."""
        answer = self._answers[request.number]
        answer.data += data
        if last:
            self._last(answer)
        self.unsent += len(data)
        self._ready[request.number] = None
        self._connection.pump_soon()

    def trailers(self, request: Request, headers: Headers) -> None:
        """See Wire."""
        answer = self._answers[request.number]
        answer.trailers = headers
        self._last(answer)
        self._ready[request.number] = None
        self._connection.pump_soon()

    def _last(self, answer: _Answer) -> None:
        answer.last = True
        self.stuck += 1

    def unsent_bytes(self, request: Request) -> int:
        """See Wire."""
        answer = self._answers.get(request.number)
        return len(answer.data) if answer is not None else 0

    def consumed(self, request: Request, count: int) -> None:
        """See Wire."""
        self._connection.body_bytes -= count
        if not self._connection.closing:
            self._h2.acknowledge_received_data(count, request.number)
            self._connection.pump_soon()

    def broke_off(self, request: Request) -> None:
        """See Wire."""
        if not request.began:
            self._h2.send_headers(request.number, [(b":status", b"500")], end_stream=True)
        self._finish(request, ErrorCodes.INTERNAL_ERROR if request.began else ErrorCodes.NO_ERROR)
        self.pump()

    def pump(self) -> None:
        """Send what the client takes, streams by turns, while the connection is not blocked; then give h2's own frames out."""
        connection = self._connection
        while self._ready and not connection.blocked:
            number = next(iter(self._ready))
            del self._ready[number]
            answer = self._answers.get(number)
            if answer is not None and self._send(number, answer):
                self._ready[number] = None
            connection.write(self._h2.data_to_send())
        connection.write(self._h2.data_to_send())
        connection.pumped()

    def _send(self, number: int, answer: _Answer) -> bool:
        """Send one frame of an answer; returns whether more can follow."""
        size = min(len(answer.data), self._h2.local_flow_control_window(number), MAX_BYTES)
        if size > 0:
            done = answer.last and size == len(answer.data) and answer.trailers is None
            self._h2.send_data(number, bytes(answer.data[:size]), end_stream=done)
            del answer.data[:size]
            self.unsent -= size
            if not done and not answer.last:
                answer.request.drained()
        elif answer.data:
            return False
        else:
            done = answer.last and answer.trailers is None
            if done:
                self._h2.end_stream(number)
        if answer.trailers is not None and not answer.data:
            self._h2.send_headers(number, answer.trailers, end_stream=True)
            done = True
        if done:
            self._calm = min(CALM_FRAMES, self._calm + CALM_EACH)
            self._connection.took()
            self._finish(answer.request, ErrorCodes.NO_ERROR)
        return bool(answer.data) and not done

    def _finish(self, request: Request, code: ErrorCodes) -> None:
        """The answer is out, or will never be; a body that still arrives is not wanted."""
        if code is not ErrorCodes.NO_ERROR or not request.received:
            with suppress(ProtocolError):  # the client has ended it
                self._h2.reset_stream(request.number, code)
        self._gone(request)

    def _gone(self, request: Request) -> None:
        answer = self._answers.pop(request.number, None)
        if answer is not None:
            self.unsent -= len(answer.data)
            self.stuck -= answer.last
        if self._requests.pop(request.number, None) is not None:
            self._connection.body_bytes -= request.body_bytes
            request.body_bytes = 0
            self._connection.end(request)

    def leave(self) -> None:
        """The connection is gone."""
        requests, self.unsent, self.stuck = list(self._requests.values()), 0, 0
        self._requests.clear()
        self._answers.clear()
        self._connection.leave(requests)

    def forget(self) -> None:
        """Nothing is sent or received any more. h2's object refers to itself: emptied, it does not wait for the garbage collection."""
        vars(self._h2).clear()

    def refuse(self, request: Request) -> None:
        """A request that was not begun is given back to the client, which may send it elsewhere."""
        self._finish(request, ErrorCodes.REFUSED_STREAM)

    def announce_end(self) -> None:
        """Ask the client to open no further streams here (GOAWAY); those that it opens before it hears of it are served."""
        if not self._ending:
            self._ending = True
            self._connection.write(GoAwayFrame(0, last_stream_id=2**31 - 1, error_code=0).serialize())

    def last_words(self, calm: bool) -> bytes:
        """What the client is told when the connection is closed: that it must calm down, or nothing in particular."""
        with suppress(ProtocolError):  # h2 has said already what was wrong
            self._h2.close_connection(ErrorCodes.NO_ERROR if calm else ErrorCodes.ENHANCE_YOUR_CALM)
        return self._h2.data_to_send()
