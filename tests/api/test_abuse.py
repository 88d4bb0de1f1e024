"""What a client does to itself stays its own: bounds on what it holds and how long it takes, against a real server."""

import asyncio
import gc
import logging
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from threading import Event
from time import monotonic

import grpc
import httpx
import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, PingAckReceived, StreamEnded, StreamReset
from raw_http import RawClient, certificate, connect, secured

from benchmarks.abuse.attacks import ATTACKS, STREAMS, http1, requests
from streamer.api.http.http2 import Http2
from streamer.api.memory import MemoryAnswers
from streamer.api.server import serve
from streamer.api.sockets import listen, url
from streamer.api.thread import serving
from streamer.core.answers import Refusal
from streamer.core.events import Message
from streamer.core.settings import LimitSettings, SecuritySettings, ServerSettings

PREDICT = "/streamer.v1.RecommendationService/Predict"
WATCH = "/grpc.health.v1.Health/Watch"
GRPC = "application/grpc"
WAITING = b'{"userId":"u","itemId":"i","freshnessToken":"log/0:1"}'  # until `learn` is called
CLICK = Message("clicks", b"u", b'{"user_id":"u","item_id":"i"}')
SERVER = ServerSettings(port=0, deadline_s=600)


class Counting(MemoryAnswers):
    """Counts how often /metrics is made, and learns when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.learning, self.made = False, 0
        self.publish([CLICK])

    def metrics(self) -> tuple[bytes, str]:
        """A page of 50 KB."""
        self.made += 1
        return b"# nothing\n" * 5_000, "text/plain"


@pytest.fixture
def answers() -> Counting:
    return Counting()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _serve(stack: ExitStack, answers: MemoryAnswers, limits: LimitSettings, tls: Path | None = None) -> str:
    """`tls`: a folder for its certificate."""
    security = SecuritySettings() if tls is None else SecuritySettings(**_certified(tls))
    return stack.enter_context(serving(answers, SERVER, security, limits))


def _certified(folder: Path) -> dict[str, str]:
    return dict(zip(("tls_cert_file", "tls_key_file"), certificate(folder), strict=True))


def _client(stack: ExitStack, address: str, window: int = 65_535) -> RawClient:
    return stack.enter_context(closing(RawClient(address, window)))


def _refused(stream: int) -> Callable[[object], bool]:
    return lambda event: (
        isinstance(event, StreamReset) and event.stream_id == stream and event.error_code == ErrorCodes.REFUSED_STREAM
    )


def _answered(stream: int) -> Callable[[object], bool]:
    return lambda event: isinstance(event, StreamEnded) and event.stream_id == stream


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_leaves_a_traceback_or_keeps_others_out(
    name: str, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    limits = LimitSettings(head_timeout_s=0.2, body_timeout_s=0.2, answer_timeout_s=0.2)
    address = _serve(stack, MemoryAnswers(), limits)
    make, _ = ATTACKS[name]

    async def send(count: int) -> None:
        chunks = make()
        try:
            async for chunk in chunks:
                attacker.sendall(chunk)
                count -= 1
                if count == 0:
                    return
        except OSError:  # closed by the server, as it should be at some time
            return
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    with closing(connect(address)) as attacker:
        attacker.settimeout(1.0)  # a server that reads no more is what some attacks meet
        asyncio.run(send(1 if name.startswith("slow") else 20))
        with httpx.Client(base_url=address, timeout=30) as honest:
            assert honest.post(PREDICT, json={"userId": "u", "itemId": "i"}).status_code == 200
    stack.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_metrics_are_made_once_for_all_who_ask(answers: Counting, stack: ExitStack) -> None:
    client = _client(stack, _serve(stack, answers, LimitSettings(metrics_max_age_s=600)))
    streams = [client.ask("/metrics") for _ in range(20)]
    client.h2.increment_flow_control_window(1 << 24)
    client.flush()
    for stream in streams:
        client.until(_answered(stream))
    assert answers.made == 1


def test_metrics_are_made_again_after_a_failure(answers: Counting, stack: ExitStack) -> None:
    address = _serve(stack, answers, LimitSettings())
    made = answers.metrics
    answers.metrics = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert httpx.get(address + "/metrics").status_code == 500
    answers.metrics = made  # type: ignore[method-assign]
    assert httpx.get(address + "/metrics").status_code == 200


def test_a_client_that_takes_nothing_gets_no_further_work_done_and_is_closed(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    answers = MemoryAnswers()
    client = _client(stack, _serve(stack, answers, LimitSettings(answer_timeout_s=0.5)), window=0)
    for _ in range(STREAMS):
        client.ask("/", None)
    assert client.read_all() == ErrorCodes.ENHANCE_YOUR_CALM
    assert not any(isinstance(event, DataReceived) and event.data for event in client.events)
    assert "127.0.0.1: 1 connections that did not take their answers" in caplog.text


@pytest.mark.parametrize("name", ["slow head", "slow head, HTTP/2", "slow body"])
def test_a_request_that_never_arrives_is_ended(name: str, stack: ExitStack) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings(head_timeout_s=0.2, body_timeout_s=0.2))
    with closing(connect(address)) as slow:
        slow.sendall(asyncio.run(anext(ATTACKS[name][0]())))  # type: ignore[arg-type]
        while slow.recv(65_536):
            pass


def test_a_client_that_asks_on_without_reading_is_closed(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings(answer_timeout_s=0.5))
    with closing(connect(address)) as deaf, suppress(ConnectionError):
        while True:
            deaf.sendall(http1("/", 100))
    assert "127.0.0.1: 1 connections that did not take their answers" in caplog.text


def test_streams_beyond_the_bound_are_refused_and_the_others_answered(answers: Counting, stack: ExitStack) -> None:
    client = _client(stack, _serve(stack, answers, LimitSettings(max_streams=3)))
    streams = [client.ask(PREDICT, WAITING) for _ in range(5)]
    for stream in streams[3:]:
        client.until(_refused(stream))
    answers.learn()
    for stream in streams[:3]:
        client.until(_answered(stream))
    client.until(_answered(client.ask("/healthz")))


def test_whoever_has_most_requests_in_hand_makes_room(
    answers: Counting, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    address = _serve(stack, answers, LimitSettings(max_peer_requests=8))
    greedy, honest = _client(stack, address), _client(stack, address)
    greedy_streams = [greedy.ask(PREDICT, WAITING) for _ in range(9)]
    greedy.until(_refused(greedy_streams[8]))
    stream = honest.ask(PREDICT, WAITING)
    assert greedy.read_all() == ErrorCodes.ENHANCE_YOUR_CALM
    answers.learn()
    honest.until(_answered(stream))
    assert "1 requests refused: too many in hand" in caplog.text
    assert answers.refused == {Refusal.TOO_MANY_REQUESTS: 1, Refusal.MOST_REQUESTS: 1}


def test_a_request_too_many_over_http1_gets_503(answers: Counting, stack: ExitStack) -> None:
    address = _serve(stack, answers, LimitSettings(max_requests=1))
    first = _client(stack, address)
    stream = first.ask(PREDICT, WAITING)
    first.h2.ping(b"12345678")
    first.flush()
    first.until(lambda event: isinstance(event, PingAckReceived))
    assert httpx.get(address + "/healthz").status_code == 503
    answers.learn()
    first.until(_answered(stream))
    assert httpx.get(address + "/healthz").status_code == 200


def test_a_request_is_counted_out_once_when_its_body_breaks_off(answers: Counting, stack: ExitStack) -> None:
    address = _serve(stack, answers, LimitSettings(max_requests=1))
    refused_at_once = b"GET /grpc.reflection.v1 HTTP/1.1\r\nHost: elsewhere\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(3):
        with closing(connect(address)) as client:
            client.sendall(refused_at_once + b"no length\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 400 ")
            assert not client.recv(1)
    first = _client(stack, address)
    stream = first.ask(PREDICT, WAITING)
    first.until(_refused(first.ask("/healthz")))
    answers.learn()
    first.until(_answered(stream))


def test_the_connection_that_was_idle_longest_makes_room_for_a_new_one(answers: Counting, stack: ExitStack) -> None:
    address = _serve(stack, answers, LimitSettings(max_peer_connections=3))
    clients = [_client(stack, address) for _ in range(3)]
    for client in reversed(clients):
        client.until(_answered(client.ask("/healthz")))
    new = _client(stack, address)
    new.until(_answered(new.ask("/healthz")))
    clients[2].read_all()
    for client in clients[:2]:
        client.until(_answered(client.ask("/healthz")))


def test_whoever_holds_most_bytes_of_its_peer_is_closed(answers: Counting, stack: ExitStack) -> None:
    address = _serve(stack, answers, LimitSettings(max_peer_bytes=131_072, answer_timeout_s=600))
    honest = _client(stack, address)
    deaf = [_client(stack, address, window=0) for _ in range(3)]
    for client in deaf:  # one answer more is begun while less than 64 KB wait: 100 KB in all
        client.ask("/metrics")
        client.ask("/metrics")
    deadline = monotonic() + 10
    while not any(client.closed for client in deaf):
        assert monotonic() < deadline
        for client in deaf:
            client.sock.settimeout(0.05)
            try:
                client.read()
            except TimeoutError:
                continue
    honest.until(_answered(honest.ask("/healthz")))


@pytest.mark.parametrize("flood", ["settings", "pings", "empty data", "continuations", "resets"])
def test_a_flood_of_frames_that_ask_for_nothing_is_ended(flood: str, stack: ExitStack) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings())
    make, _ = ATTACKS[flood]

    async def send() -> None:
        chunks = make()
        try:
            async for chunk in chunks:
                attacker.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            await chunks.aclose()  # type: ignore[attr-defined]

    with closing(connect(address)) as attacker:
        asyncio.run(send())


def test_an_idle_client_is_warned_before_its_connection_ends_and_a_ping_is_life(stack: ExitStack) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings(idle_timeout_s=2.0))
    idle, alive = _client(stack, address), _client(stack, address)
    for client in (idle, alive):
        client.until(_answered(client.ask("/healthz")))
    idle.sock.settimeout(0.05)
    deadline = monotonic() + 30
    while not idle.closed:
        alive.h2.ping(b"12345678")
        alive.flush()
        alive.read()
        try:
            idle.read()
        except TimeoutError:
            assert monotonic() < deadline
    warnings = [event for event in idle.events if isinstance(event, ConnectionTerminated)]
    assert [event.error_code for event in warnings] == [ErrorCodes.NO_ERROR] * len(warnings)
    assert warnings[0].last_stream_id == 2**31 - 1
    alive.until(_answered(alive.ask("/healthz")))


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_closed_connection_leaves_nothing_to_the_garbage_collection(
    tls: bool, stack: ExitStack, tmp_path: Path
) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings(), tmp_path if tls else None)
    gc.collect()
    gc.disable()
    stack.callback(gc.enable)
    for _ in range(5):
        with closing(secured(address) if tls else connect(address)) as client:
            client.sendall(requests("/healthz", 3))
            assert client.recv(1)
        connect(address).close()  # over TLS, in the middle of its handshake
        with closing(connect(address)) as client:  # over TLS, no handshake at all
            client.sendall(b"nonsense\r\n\r\n")
            with suppress(ConnectionResetError):
                client.recv(1)
    deadline = monotonic() + 30
    while any(issubclass(type(one), Http2 | H2Connection | SSLProtocol) for one in gc.get_objects()):
        assert monotonic() < deadline


@pytest.mark.parametrize(
    "begun",
    [b"\0\x40\1\0\0\0\0\0\1", b"\0\x40\0\1\0\0\0\0\1" + bytes(16_384) + b"\0\x40\0\x09\0\0\0\0\1"],
    ids=["frame", "head"],
)
def test_what_will_be_too_large_is_not_kept_until_all_of_it_is_there(
    begun: bytes, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    client = _client(stack, _serve(stack, MemoryAnswers(), LimitSettings(head_timeout_s=600)))
    client.sock.sendall(begun + bytes(16_384))
    assert client.read_all() == ErrorCodes.ENHANCE_YOUR_CALM
    assert "127.0.0.1: 1 connections with frames or heads that are too large" in caplog.text


def test_calls_after_a_pause_do_not_fail(stack: ExitStack) -> None:
    address = _serve(stack, MemoryAnswers(), LimitSettings(idle_timeout_s=0.05))
    target = f"127.0.0.1:{httpx.URL(address).port}"
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call, idle = channel.unary_unary(PREDICT), Event()

        def look(state: grpc.ChannelConnectivity) -> None:
            if state is grpc.ChannelConnectivity.IDLE:
                idle.set()

        channel.subscribe(look)
        for _ in range(5):
            idle.clear()
            assert call(b"\x0a\x01u\x12\x01i", timeout=30)
            assert idle.wait(30)
        channel.unsubscribe(look)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_stopping_waits_for_nobody_who_reads_nothing(tls: bool, tmp_path: Path) -> None:
    security = SecuritySettings(**_certified(tmp_path)) if tls else SecuritySettings()

    async def scenario() -> None:
        stop, sock = asyncio.Event(), listen(SERVER)
        server = ServerSettings(port=0, deadline_s=600, shutdown_timeout_s=0.1)
        serving = asyncio.create_task(serve(Counting(), server, security, LimitSettings(), stop, lambda _: None, sock))
        context = ssl._create_unverified_context() if tls else None
        if context is not None:
            context.set_alpn_protocols(["h2"])
        port = httpx.URL(url(sock)).port
        writers = []
        for name in ("metrics, zero window", "page, not read", "watchers, not read", "pings, not read", "slow body"):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(await anext(ATTACKS[name][0]()))
            writers.append(writer)
        async with httpx.AsyncClient(verify=False, timeout=30) as honest:
            assert (await honest.get(f"{'https' if tls else 'http'}://localhost:{port}/healthz")).status_code == 200
        stop.set()
        await asyncio.wait_for(serving, 30)
        for writer in writers:
            writer.transport.abort()

    asyncio.run(scenario())
