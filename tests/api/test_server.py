"""One port: opening, serving and closing."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from time import monotonic

import httpx
import pytest

from streamer.api.memory import MemoryAnswers
from streamer.api.server import serve
from streamer.api.sockets import listen, url
from streamer.api.thread import serving
from streamer.core.errors import BadSettings
from streamer.core.events import LOG, Message, Offsets
from streamer.core.settings import LimitSettings, SecuritySettings, ServerSettings

PREDICT = "/streamer.v1.RecommendationService/Predict"
WAITING = {"userId": "u", "itemId": "i", "freshnessToken": "log/0:1"}
CLICK = {"events": [{"click": {"userId": "u", "itemId": "i"}}]}


def test_a_port_in_use_is_reported_before_anything_starts() -> None:
    with closing(listen(ServerSettings(port=0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"port {port} is in use by another process: stop it, or use --port") as e:
            listen(ServerSettings(port=port))
        assert e.value.exit_code == 78
        with pytest.raises(BadSettings), serving(MemoryAnswers(), ServerSettings(port=port), SecuritySettings()):
            pass


def test_a_port_can_be_used_again_at_once() -> None:
    with serving(MemoryAnswers(), ServerSettings(port=0), SecuritySettings()) as address:
        assert httpx.get(address + "/healthz").status_code == 200
    port = httpx.URL(address).port
    assert port
    with serving(MemoryAnswers(), ServerSettings(port=port), SecuritySettings()) as again:
        assert again == address
        assert httpx.get(again + "/healthz").status_code == 200


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "999.1.1.1", "a..b"])
def test_a_host_that_cannot_be_listened_on_is_reported(host: str) -> None:
    with pytest.raises(BadSettings, match="cannot listen on"):
        listen(ServerSettings(host=host, port=0))


def test_ipv6_loopback_works_where_it_exists() -> None:
    try:
        sock = listen(ServerSettings(host="::1", port=0))
    except BadSettings:
        pytest.skip("no IPv6 on this machine")
    assert url(sock).startswith("http://[::1]:")
    sock.close()
    with serving(MemoryAnswers(), ServerSettings(host="::1", port=0), SecuritySettings()) as address:
        assert httpx.get(address + "/healthz").status_code == 200


def test_a_silent_connection_is_dropped() -> None:
    limits = LimitSettings(head_timeout_s=0.1)
    with serving(MemoryAnswers(), ServerSettings(port=0), SecuritySettings(), limits) as address:
        where = ("127.0.0.1", httpx.URL(address).port or 0)
        half_open = [socket.create_connection(where, timeout=20) for _ in range(20)]
        for number, connection in enumerate(half_open):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: loc"[: number * 2])
        assert [connection.recv(1) for connection in half_open] == [b""] * 20
        for connection in half_open:
            connection.close()


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    limits = LimitSettings(body_timeout_s=0.1)
    with serving(MemoryAnswers(), ServerSettings(port=0), SecuritySettings(), limits) as address:
        with closing(socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0), timeout=20)) as connection:
            head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
            answer = b""
            while b"deadline_exceeded" not in answer:
                received = connection.recv(4096)
                assert received, answer
                answer += received
        assert b" 408 " in answer.splitlines()[0]


def test_a_request_running_at_shutdown_is_answered() -> None:
    async def scenario() -> int:
        answers, stop = MemoryAnswers(), asyncio.Event()
        answers.learning = False
        answers.publish([Message("clicks", b"u", b'{"user_id":"u","item_id":"i"}')])
        sock = listen(ServerSettings(port=0))
        address, settings = url(sock), ServerSettings(port=0, shutdown_timeout_s=30)
        served = asyncio.create_task(
            serve(answers, settings, SecuritySettings(), LimitSettings(), stop, lambda _: None, sock)
        )
        async with httpx.AsyncClient(timeout=30) as client:
            query = asyncio.create_task(client.post(address + PREDICT, json=WAITING))
            await _until(lambda: bool(answers._freshness._waiting))
            stop.set()
            await _until(lambda: _refuses(address))
            answers.learn()
            status = (await query).status_code
        await served
        return status

    assert asyncio.run(scenario()) == 200


def test_a_request_that_does_not_end_does_not_hold_up_shutdown() -> None:
    async def scenario() -> None:
        answers, stop = MemoryAnswers(), asyncio.Event()
        sock = listen(ServerSettings(port=0))
        address, settings = url(sock), ServerSettings(port=0, deadline_s=600, shutdown_timeout_s=0.1)
        served = asyncio.create_task(
            serve(answers, settings, SecuritySettings(), LimitSettings(), stop, lambda _: None, sock)
        )
        async with httpx.AsyncClient(timeout=600) as client:
            query = asyncio.create_task(client.post(address + PREDICT, json=WAITING))
            await _until(lambda: bool(answers._freshness._waiting))
            stop.set()
            await asyncio.wait_for(served, 30)
            await asyncio.wait({query})
            query.exception()

    asyncio.run(scenario())


def test_a_watch_ends_at_shutdown() -> None:
    head = b"\x00\x00\x00\x00\x00"
    with serving(MemoryAnswers(), ServerSettings(port=0, shutdown_timeout_s=60), SecuritySettings()) as address:
        client = httpx.Client(timeout=30)
        request = client.build_request(
            "POST", address + "/grpc.health.v1.Health/Watch", content=head,
            headers={"content-type": "application/grpc-web+proto"},
        )  # fmt: skip
        watch = client.send(request, stream=True)
        chunks = watch.iter_raw()
        assert next(chunks)[:5] == b"\x00\x00\x00\x00\x02"
    assert b"grpc-status: 0" in b"".join(chunks)
    client.close()


def test_queries_are_answered_while_publishing_waits() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    class Slow(MemoryAnswers):
        def publish(self, messages: Sequence[Message]) -> Offsets:
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
            return {LOG: 1}

    async def scenario() -> tuple[int, int]:
        stop = asyncio.Event()
        sock = listen(ServerSettings(port=0))
        address = url(sock)
        served = asyncio.create_task(
            serve(Slow(), ServerSettings(port=0), SecuritySettings(), LimitSettings(), stop, lambda _: None, sock)
        )
        async with httpx.AsyncClient(timeout=30) as client:
            publish = asyncio.create_task(client.post(address + "/streamer.v1.EventService/Publish", json=CLICK))
            await asyncio.wait_for(entered.wait(), 30)
            query = await client.post(address + PREDICT, json={"userId": "u", "itemId": "i"})
            release.set()
            status = (await publish).status_code
        stop.set()
        await served
        return query.status_code, status

    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(scenario()) == (200, 200)
    finally:
        loop.close()


async def _until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 30
    while not condition():
        assert monotonic() < deadline
        await asyncio.sleep(0.01)


def _refuses(address: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", httpx.URL(address).port or 0), timeout=5).close()
    except OSError:
        return True
    return False
