"""What a client does to itself stays its own over TLS too, where a connection is secured first and takes some rounds to end."""

import gc
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from socket import SHUT_WR, socket
from time import monotonic

import pytest
from hyperframe.frame import PingFrame
from raw_http import certificate, connect, secured

from benchmarks.abuse.attacks import begin, requests
from streamer.api.http import http2
from streamer.api.memory import MemoryAnswers
from streamer.api.thread import serving
from streamer.core.settings import LimitSettings, SecuritySettings, ServerSettings

SHORT, OPEN = 60, 20  # connections
OPEN_BYTES = 64 << 10  # of Python's memory, a connection that is open: the loop's buffer alone would be 256 KB
CLOSED_BYTES = 4 << 10  # and one that is closed


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _serve(stack: ExitStack, folder: Path, limits: LimitSettings) -> str:
    cert, key = certificate(folder)
    security = SecuritySettings(tls_cert_file=cert, tls_key_file=key)
    return stack.enter_context(serving(MemoryAnswers(), ServerSettings(port=0), security, limits))


def test_a_connection_that_was_not_secured_yet_makes_room_too(stack: ExitStack, tmp_path: Path) -> None:
    limits = LimitSettings(max_peer_connections=3, head_timeout_s=600)
    address = _serve(stack, tmp_path, limits)
    silent = [stack.enter_context(closing(connect(address))) for _ in range(4)]
    assert not silent[0].recv(1)
    stack.enter_context(closing(secured(address)))
    assert not silent[1].recv(1)


def test_a_client_that_left_does_not_fill_the_log(
    stack: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = _serve(stack, tmp_path, LimitSettings())
    with closing(secured(address)) as client:
        client.sendall(begin() + PingFrame(0, b"12345678").serialize() * 1_900)  # each is answered
        socket.shutdown(client, SHUT_WR)  # without a farewell of TLS
        with suppress(OSError):
            while client.recv(65_536):
                pass
    stack.close()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_no_request_begins_on_a_connection_that_was_just_closed(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http2, "CALM_FRAMES", 100)
    monkeypatch.setattr(http2, "CALM_A_SECOND", 0)
    address = _serve(stack, tmp_path, LimitSettings(max_streams=1))
    with closing(secured(address)) as client:  # which takes some rounds of the loop
        client.sendall(requests("/healthz", 100))  # the tenth that is refused ends it, in the middle of a turn
        while client.recv(65_536):
            pass
    stack.close()
    assert "1 connections with floods of frames" in caplog.text
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_short_connections_leave_no_memory_behind_and_open_ones_have_small_buffers(
    stack: ExitStack, tmp_path: Path
) -> None:
    address = _serve(stack, tmp_path, LimitSettings())
    _short(address)  # what is made once
    gc.collect()
    gc.disable()
    stack.callback(gc.enable)
    tracemalloc.start()
    stack.callback(tracemalloc.stop)
    for _ in range(SHORT):
        _short(address)
    deadline = monotonic() + 30
    while (
        grown := tracemalloc.get_traced_memory()[0]
    ) > SHORT * CLOSED_BYTES:  # the server hears of the end a little later
        assert monotonic() < deadline, f"{grown:,} bytes are left of {SHORT} connections"
    clients = [stack.enter_context(closing(secured(address))) for _ in range(OPEN)]
    for client in clients:
        client.sendall(requests("/healthz", 1))
        assert client.recv(1)
    assert tracemalloc.get_traced_memory()[0] - grown < OPEN * OPEN_BYTES


def _short(address: str) -> None:
    """One that is closed after an answer, and one in the middle of its handshake."""
    with closing(secured(address)) as client:
        client.sendall(requests("/healthz", 1))
        assert client.recv(1)
    connect(address).close()
