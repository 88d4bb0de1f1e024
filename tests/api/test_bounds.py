"""Who has to make room, what the log says of it, and whose turn it is."""

import asyncio
import logging
from collections import Counter

import pytest

from streamer.api.http.bounds import LINE_S, Bounds, Peer, peer_name
from streamer.api.http.frames import whole_frames
from streamer.api.http.turns import NEW_TURNS, OWED_TURNS, Turns
from streamer.core.answers import Refusal
from streamer.core.settings import LimitSettings


class One:
    """A connection that holds what a test says."""

    def __init__(self, bounds: Bounds, address: str, since: float = 0.0) -> None:
        self.bounds, self.peer, self.since = bounds, bounds.peer(address), since
        self.requests = self.held_bytes = self.good_until = 0
        self.closed: Refusal | None = None
        bounds.enter(self)

    def close(self, why: Refusal) -> None:
        self.closed = why
        self.bounds.leave(self)


def _bounds(limits: LimitSettings) -> Bounds:
    return Bounds(limits, lambda: 0.0, lambda _: None)


def test_in_all_the_peer_that_holds_most_makes_room() -> None:
    bounds = _bounds(LimitSettings(max_requests=5, max_bytes=131_072))
    many = [One(bounds, "10.0.0.1") for _ in range(2)]
    single = One(bounds, "10.0.0.2")
    for one in (many[0], many[0], many[0], many[1], single):
        assert bounds.admit(one)
    assert bounds.admit(single)
    assert [one.closed for one in (*many, single)] == [Refusal.MOST_REQUESTS, None, None]
    bounds.hold(many[1], 100_000)
    bounds.hold(single, 60_000)
    assert (many[1].closed, single.closed) == (Refusal.TOO_MANY_BYTES, None)
    assert (bounds.requests, bounds.held_bytes, bounds.connections) == (2, 60_000, 1)


def test_of_many_connections_one_that_took_no_answer_makes_room() -> None:
    bounds = _bounds(LimitSettings(max_peer_connections=3))
    idle, new, busy = (One(bounds, "10.0.0.1", since) for since in (0.0, 5.0, 1.0))
    idle.good_until = busy.good_until = 9
    assert bounds.admit(busy)
    last = One(bounds, "10.0.0.1", 6.0)
    assert [one.closed for one in (idle, new, busy, last)] == [None, Refusal.TOO_MANY_CONNECTIONS, None, None]
    for _ in range(10):
        assert bounds.admit(busy)
    One(bounds, "10.0.0.1", 7.0)
    assert [one.closed for one in (idle, busy, last)] == [None, Refusal.TOO_MANY_CONNECTIONS, None]


def test_nobody_is_closed_for_one_who_has_as_many() -> None:
    bounds = _bounds(LimitSettings(max_peer_requests=2))
    first, second, third = (One(bounds, "10.0.0.1") for _ in range(3))
    assert bounds.admit(first)
    assert bounds.admit(second)
    assert not bounds.admit(third)
    assert (first.closed, second.closed) == (None, None)


def test_a_peer_is_told_of_in_one_line_a_minute_with_counts(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    counts: Counter[Refusal] = Counter()
    bounds = Bounds(LimitSettings(), lambda: now, lambda refusal: counts.update([refusal]))
    for _ in range(1_000):
        bounds.note(Peer("10.0.0.1"), Refusal.PROTOCOL_ERROR, "FrameTooLarge")
    bounds.note(Peer("10.0.0.2"), Refusal.NO_HEAD)
    bounds.tell()
    now = LINE_S
    bounds.tell()
    now = 2 * LINE_S
    bounds.tell()
    said = [
        record.getMessage().partition(" (bounds")[0] for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert said == [
        "10.0.0.1: 1 connections with errors of the protocol (FrameTooLarge)",
        "10.0.0.2: 1 connections that sent no complete head of a request",
        "10.0.0.1: 999 connections with errors of the protocol (FrameTooLarge)",
    ]  # fmt: skip
    assert counts == {Refusal.PROTOCOL_ERROR: 1_000, Refusal.NO_HEAD: 1}
    assert bounds.noted == 1_001


def test_peers_without_end_do_not_fill_the_log_or_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    bounds = _bounds(LimitSettings())
    for n in range(3_000):
        one = One(bounds, f"10.0.{n // 250}.{n % 250}")
        bounds.note(one.peer, Refusal.FLOOD)
        bounds.leave(one)
    assert len(caplog.records) == 1_001
    assert bounds.peers == {}


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("2001:db8::1:2", "2001:0db8:0000:0000::/64"),
     ("fe80::1%eth0", "fe80:0000:0000:0000::/64"), ("::ffff:10.0.0.1", "10.0.0.1"), ("unix", "unix")],
)  # fmt: skip
def test_peers_are_addresses_and_networks(address: str, name: str) -> None:
    assert peer_name(address) == name


class Worker:
    """Has `left` pieces of work, and writes down its turns."""

    def __init__(self, name: str, peer: str, left: int, done: list[str], good: int = 0, turns: int = NEW_TURNS) -> None:
        self.name, self.peer, self.left, self.done = name, peer, left, done
        self.turns, self.good_until = turns, turns + good

    def turn(self) -> bool:
        self.left -= 1
        self.done.append(self.name)
        return self.left > 0


def _turns(*workers: Worker) -> None:
    async def scenario() -> None:
        turns = Turns()
        for worker in workers:
            turns.want(worker)
        while turns.crowded:
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_turns_go_round_by_peer_and_then_by_connection() -> None:
    done: list[str] = []
    _turns(*(Worker(f"many-{n}", "proxy", 2, done) for n in range(3)), Worker("alone", "other", 4, done))
    assert done == ["many-0", "alone", "many-1", "alone", "many-2", "alone", "many-0", "alone", "many-1", "many-2"]


def test_whoever_took_an_answer_of_late_comes_first_and_the_others_still_come() -> None:
    done: list[str] = []
    _turns(
        *(Worker("hostile", "proxy", 9, done) for _ in range(9)), Worker("honest", "proxy", 9, done, good=OWED_TURNS)
    )
    assert done[:12].count("honest") == 9
    assert done.count("hostile") == 81


def test_the_first_turns_of_a_new_connection_come_before_those_of_long_ones() -> None:
    done: list[str] = []
    _turns(*(Worker("hostile", "proxy", 9, done) for _ in range(9)), Worker("new", "proxy", 3, done, turns=0))
    assert done[:6].count("new") == 3


def test_good_standing_ends_without_further_answers() -> None:
    done: list[str] = []
    _turns(Worker("flood", "a", 100, done, good=OWED_TURNS), Worker("other", "b", 100, done))
    assert done[:OWED_TURNS].count("flood") > done[-OWED_TURNS:].count("flood") > 0


def test_frames_are_passed_on_whole_and_a_few_at_a_time() -> None:
    ping = b"\0\0\x08\6\0\0\0\0\0" + b"12345678"
    found = whole_frames(bytearray(ping * 20 + ping[:5]), 0)
    assert (found.size, found.idle, found.head_bytes) == (8 * len(ping), 8, 0)
    assert whole_frames(bytearray(ping[:5]), 0).size == 0
    assert whole_frames(bytearray(b"\0\0\1\1\0\0\0\0\1x"), 0).head_bytes == 10
