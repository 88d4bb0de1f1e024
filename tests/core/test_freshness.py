"""Freshness: a query with a token waits for its events, but no longer than its deadline."""

import asyncio
import threading

import pytest

from streamer.core.events import LOG, TopicPartition
from streamer.core.freshness import Freshness, parse, token

R3, C5 = TopicPartition("ratings", 3), TopicPartition("clicks", 5)


def test_a_token_round_trips_through_text() -> None:
    assert token({LOG: 1234}) == "log/0:1234"
    assert token({R3: 17, C5: 5}) == token({C5: 5, R3: 17}) == "clicks/5:5,ratings/3:17"
    assert token({}) == ""
    for offsets in ({}, {LOG: 0}, {R3: 17, C5: 10**17}):
        assert parse(token(offsets)) == offsets


def test_of_a_sequence_named_twice_the_later_offset_counts() -> None:
    assert parse("log/0:7,log/0:5") == parse("log/0:5,log/0:7") == {LOG: 7}


@pytest.mark.parametrize(
    "text", ["log", "log/0", "log/0:", "log/0:-1", "log/0:1.5", "log/-1:1", ",", "log/0:1,", "a b/0:1", " log/0:1",
             "log/0:1\n", "log/0:" + "9" * 19, "é/0:1", "log/0:\u0661", "/0:1", "x" * 5000],
)  # fmt: skip
def test_an_invalid_token_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not part of a freshness token, which looks like log/0:1234") as raised:
        parse(text)
    assert len(str(raised.value)) < 300


def test_events_already_in_the_view_need_no_wait() -> None:
    freshness = Freshness()
    freshness.advance({LOG: 5, R3: 2})

    async def ask() -> list[bool]:
        wanted = [{}, {LOG: 0}, {LOG: 5}, {LOG: 4, R3: 2}, {C5: 0}]
        return [await freshness.wait(offsets, 0.0) for offsets in wanted]

    assert asyncio.run(ask()) == [True] * 5


def test_a_wait_for_events_that_do_not_come_ends_at_the_deadline() -> None:
    freshness = Freshness()
    freshness.advance({LOG: 5})

    async def ask() -> list[bool]:
        wanted = [{LOG: 6}, {LOG: 5, C5: 1}, {R3: 1}]
        return [await freshness.wait(offsets, 0.001) for offsets in wanted]

    assert asyncio.run(ask()) == [False] * 3
    assert freshness._waiting == []


def test_the_engines_thread_wakes_all_requests_whose_events_are_in() -> None:
    freshness = Freshness()
    order: list[int] = []

    async def one(offset: int) -> bool:
        found = await freshness.wait({LOG: offset}, 60.0)
        assert freshness.offsets[LOG] >= offset
        order.append(offset)
        return found

    async def ask() -> list[bool]:
        tasks = [asyncio.create_task(one(offset)) for offset in (3, 1, 2, 3, 3)]
        while len(freshness._waiting) < 5:
            await asyncio.sleep(0)
        engine = threading.Thread(target=lambda: [freshness.advance({LOG: n}) for n in range(1, 4)])
        engine.start()
        found = await asyncio.gather(*tasks)
        engine.join()
        return found

    assert asyncio.run(ask()) == [True] * 5
    assert sorted(order) == [1, 2, 3, 3, 3]
    assert freshness._waiting == []


def test_a_wait_for_two_sequences_waits_for_both() -> None:
    freshness = Freshness()

    async def ask() -> list[bool]:
        task = asyncio.create_task(freshness.wait({R3: 1, C5: 1}, 60.0))
        while not freshness._waiting:
            await asyncio.sleep(0)
        freshness.advance({R3: 9})
        for _ in range(5):
            await asyncio.sleep(0)
        early = task.done()
        freshness.advance({R3: 9, C5: 1})
        return [early, await task]

    assert asyncio.run(ask()) == [False, True]


def test_a_wait_that_timed_out_is_forgotten() -> None:
    freshness = Freshness()

    async def ask() -> None:
        task = asyncio.create_task(freshness.wait({LOG: 1}, 60.0))
        while not freshness._waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(ask())
    assert freshness._waiting == []


def test_an_endpoint_that_is_gone_does_not_stop_the_engine() -> None:
    """At shutdown the event loop may close while a request still waits."""
    freshness = Freshness()
    loop = asyncio.new_event_loop()
    freshness._waiting.append(({LOG: 1}, loop, asyncio.Event()))
    loop.close()
    freshness.advance({LOG: 1})
    assert freshness.offsets == {LOG: 1}
