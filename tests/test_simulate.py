"""The simulated world is the same for the same settings, can be read by people, and has something to learn in it."""

from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from streamer.arrays import Array
from streamer.consumers.memory import MemorySink
from streamer.errors import BadSettings, SourceUnavailable
from streamer.events import Click, ItemUpdate, Message, Offsets, Rating, message
from streamer.producers import replay as module
from streamer.producers.replay import replay
from streamer.producers.simulate import Simulation, World
from streamer.producers.titles import CATEGORIES, DISTINCT, title
from streamer.producers.world import RATED, START_MS
from streamer.protocols import Stream

SMALL = World(users=50, items=30, events=2_000, days=10)
KINDS = {"ratings": Rating, "clicks": Click, "items": ItemUpdate}


@pytest.fixture(scope="module")
def small() -> Simulation:
    return SMALL.stream()


@pytest.fixture(scope="module")
def default() -> Simulation:
    return World().stream()


def decoded(stream: Stream) -> list[Rating | Click | ItemUpdate]:
    return [msgspec.json.decode(sent.value or b"", type=KINDS[sent.topic]) for sent in stream.messages(0, len(stream))]


def test_equal_settings_give_equal_worlds_and_others_do_not(small: Simulation) -> None:
    assert isinstance(small, Stream)
    again, other = SMALL.stream(), World(users=50, items=30, events=2_000, days=10, seed=2).stream()
    assert again.messages(0, 3000) == small.messages(0, 3000)
    assert again.sha256 == small.sha256 != other.sha256
    assert other.messages(0, 3000) != small.messages(0, 3000)


def test_rows_are_the_same_however_they_are_cut(small: Simulation) -> None:
    whole = small.messages(0, len(small))
    assert len(whole) == len(small) == 2_030
    assert [m for start in range(0, 2_100, 77) for m in small.messages(start, start + 77)] == whole
    assert small.messages(2_020, 9_999) == whole[2_020:]


def test_messages_are_written_as_events_write_them(small: Simulation) -> None:
    for event, sent in zip(decoded(small), small.messages(0, len(small)), strict=True):
        if not isinstance(event, ItemUpdate):  # whose years come back as fractions
            assert message(event) == sent


def test_time_runs_forward_from_2024_and_items_come_before_anybody_meets_them(small: Simulation) -> None:
    times = small.times_ms(0, len(small))
    assert times == sorted(times)
    assert times[0] == START_MS
    announced: set[str] = set()
    for event, at in zip(decoded(small), times, strict=True):
        if isinstance(event, ItemUpdate):
            announced.add(event.item_id)
        else:
            assert event.timestamp_ms == at
            assert event.item_id in announced
    assert len(announced) == 30


def test_people_and_items_go_on_arriving(default: Simulation) -> None:
    h, n = default.happenings, default.world.events
    for column, least in ((h.users, 100), (h.items, 50)):
        first_half, second_half = set(column[: n // 2].tolist()), set(column[n // 2 :].tolist())
        assert len(second_half - first_half) > least


def test_titles_can_be_read_and_told_apart(default: Simulation) -> None:
    items = [event for event in decoded(default) if isinstance(event, ItemUpdate)]
    assert len({item.title for item in items}) == 500
    for item in items:
        assert item.title.endswith(f"({item.attributes['year']:.0f})")
        assert item.title.isascii()
        assert set(item.categories) <= set(CATEGORIES)
        assert 1 <= len(item.categories) <= 2
    assert title(3100, 1987) == "The Amber Gardener (1987)"
    assert len({title(number, 2000) for number in range(DISTINCT + 100)}) == DISTINCT + 100
    assert title(DISTINCT, 2000) == "Amber Admiral 2 (2000)"


def test_nobody_rates_the_same_thing_twice_and_every_kind_occurs(default: Simulation) -> None:
    h = default.happenings
    pairs = h.users[h.kinds == RATED].astype(np.int64) * 500 + h.items[h.kinds == RATED]
    assert len(np.unique(pairs)) == len(pairs)
    assert (np.bincount(h.kinds, minlength=4) > 0.05 * default.world.events).all()
    assert set(np.unique(h.halves)) == set(range(1, 11))


def test_popularity_and_activity_are_uneven(default: Simulation) -> None:
    for column in (default.happenings.users, default.happenings.items):
        counts = np.sort(np.bincount(column))[::-1]
        assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()


def rmse(errors: Array) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def test_there_is_something_to_learn(default: Simulation) -> None:
    """Best possible .75 to .8; user and item means, known in full, are far above it, and nothing at all is at 1.04."""
    h = default.happenings
    rated = h.kinds == RATED
    y, users, items = h.halves[rated] / 2, h.users[rated], h.items[rated]
    best = rmse(y - np.clip(h.means[rated], 0.5, 5))
    user_bias, item_bias, mean = np.zeros(1_000), np.zeros(500), y.mean()
    for _ in range(10):
        item_bias = np.bincount(items, y - mean - user_bias[users], 500) / (np.bincount(items, minlength=500) + 3)
        user_bias = np.bincount(users, y - mean - item_bias[items], 1_000) / (np.bincount(users, minlength=1_000) + 5)
    biases = rmse(y - mean - user_bias[users] - item_bias[items])
    assert 0.75 < best < 0.80
    assert best + 0.1 < biases < 0.95
    assert 1.0 < rmse(y - mean) < 1.1


@pytest.mark.parametrize("world", [World(1, 1, 1, 1), World(2, 3, 500, 1), World(3, 9_000, 100, 2)])
def test_extreme_worlds_are_worlds(world: World) -> None:
    assert len(decoded(world.stream())) == world.items + world.events


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"users": 0}, "with users of at least 1, found 0"), ({"seed": -1}, "with seed of at least 0, found -1")],
)
def test_a_world_without_anything_in_it_gets_a_sentence(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadSettings, match=sentence):
        World(**settings)


def test_a_replay_publishes_every_row_in_order_and_tells_how_far_it_is(small: Simulation) -> None:
    sink, told = MemorySink(), list[tuple[int, int]]()
    done = replay(small, sink, progress=lambda *told_now: told.append(told_now), chunk=300)
    sent = small.messages(0, len(small))
    assert [(r.topic, r.key, r.value) for r in sink.records] == [(m.topic, m.key, m.value) for m in sent]
    assert told == [(300, 2030), (600, 2030), (900, 2030), (1200, 2030), (1500, 2030), (1800, 2030), (2030, 2030)]
    assert done.messages == 2030
    assert done.topics == {topic: sum(m.topic == topic for m in sent) for topic in KINDS}
    assert list(done.offsets.values()) == [2030]


class Failing:
    """A sink that goes away after some calls."""

    def __init__(self, calls: int) -> None:
        self.inner, self.calls = MemorySink(), calls

    def publish(self, messages: Sequence[Message]) -> Offsets:
        self.calls -= 1
        if self.calls < 0:
            raise SourceUnavailable("away")
        return self.inner.publish(messages)

    def close(self) -> None:
        self.inner.close()


def test_a_replay_goes_on_from_what_progress_said(small: Simulation) -> None:
    sink, told = Failing(calls=3), [0]
    with pytest.raises(SourceUnavailable):
        replay(small, sink, progress=lambda done, total: told.append(done))
    sink.calls = 100
    replay(small, sink, start=told[-1])
    assert [r.value for r in sink.inner.records] == [m.value for m in small.messages(0, len(small))]


def test_long_events_are_published_fewer_at_a_time(small: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1_000)
    sink, told = MemorySink(), [0]
    replay(small, sink, progress=lambda done, total: told.append(done))
    sizes = [sum(len(r.value or b"") for r in sink.records[a:b]) for a, b in pairwise(told)]
    assert max(sizes) <= 1_000
    assert [r.value for r in sink.records] == [m.value for m in small.messages(0, len(small))]
