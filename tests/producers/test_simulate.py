"""The simulated world: it is reproducible and readable, and has something to learn. Also: replays of streams."""

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from learning import settings

from streamer.consumers.memory import MemorySink
from streamer.consumers.stream import StreamSource
from streamer.core.arrays import Array
from streamer.core.errors import BadSettings, SourceUnavailable
from streamer.core.events import Click, ItemUpdate, Message, Offsets, Rating, message
from streamer.core.protocols import Stream
from streamer.producers import replay as module
from streamer.producers.replay import replay
from streamer.producers.simulate import Simulation, World
from streamer.producers.titles import CATEGORIES, DISTINCT, title
from streamer.producers.world import DAY_MS, RATED, START_MS
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

SMALL = World(users=50, items=30, events=2_000, days=10, duplicates=0, late=0, bad=0)
STEP = 500
KINDS = {"ratings": Rating, "clicks": Click, "items": ItemUpdate}


@pytest.fixture(scope="module")
def small() -> Simulation:
    return SMALL.stream()


@pytest.fixture(scope="module")
def default() -> Simulation:
    return World().stream()


@pytest.fixture(scope="module")
def faulty() -> Simulation:
    """A world with many duplicates, late and broken events."""
    return replace(SMALL, duplicates=0.05, late=0.04, bad=0.03).stream()


def decoded(stream: Stream) -> list[Rating | Click | ItemUpdate]:
    """All rows except broken ones, decoded."""
    found = []
    for sent in stream.messages(0, len(stream)):
        with contextlib.suppress(msgspec.DecodeError):
            found.append(msgspec.json.decode(sent.value or b"", type=KINDS[sent.topic]))
    return found


def learned(
    stream: Stream, folder: Path, after: Callable[[Memory], None] = lambda memory: None, **flags: object
) -> Memory:
    """The memory after learning everything; `after` is called after each micro-batch."""
    chosen, store = settings(**flags), RocksStore(folder)
    try:
        memory = Memory(learners(chosen), chosen, store)
        engine = Engine(StreamSource(stream), memory, NullObserver(), max_records=STEP, commit_interval_s=3600.0)
        while engine.step(0.0):
            after(memory)
        return memory
    finally:
        store.close()


def test_equal_settings_give_equal_worlds_and_others_do_not(small: Simulation) -> None:
    assert isinstance(small, Stream)
    again, other = SMALL.stream(), replace(SMALL, seed=2).stream()
    assert again.messages(0, 3000) == small.messages(0, 3000)
    assert again.sha256 == small.sha256 != other.sha256
    assert other.messages(0, 3000) != small.messages(0, 3000)


def test_rows_are_the_same_however_they_are_cut(small: Simulation) -> None:
    whole = small.messages(0, len(small))
    assert len(whole) == len(small) == 2_030
    assert [m for start in range(0, 2_100, 77) for m in small.messages(start, start + 77)] == whole
    assert small.messages(2_020, 9_999) == whole[2_020:]


def test_messages_are_the_bytes_that_events_encode_to() -> None:
    stream = SMALL.stream(truth=False)
    for event, sent in zip(decoded(stream), stream.messages(0, len(stream)), strict=True):
        if not isinstance(event, ItemUpdate):  # whose years come back as fractions
            assert message(event) == sent


def test_the_field_expected_is_not_part_of_an_event(small: Simulation) -> None:
    ratings = 0
    for with_truth, without in zip(small.messages(0, 3000), SMALL.stream(truth=False).messages(0, 3000), strict=True):
        value, plain = json.loads(with_truth.value or b""), json.loads(without.value or b"")
        if with_truth.topic == "ratings":
            assert 0.5 < value.pop("expected") < 5
            ratings += 1
        assert value == plain
    assert ratings == small.rated.sum() > 400
    assert decoded(small) == decoded(SMALL.stream(truth=False))


def test_time_ascends_from_2024_and_items_arrive_before_their_events(small: Simulation) -> None:
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


def test_people_and_items_arrive_over_the_whole_time(default: Simulation) -> None:
    h, n = default.interactions, default.world.events
    for column, least in ((h.users, 100), (h.items, 50)):
        first_half, second_half = set(column[: n // 2].tolist()), set(column[n // 2 :].tolist())
        assert len(second_half - first_half) > least


def test_titles_are_readable_and_distinct(default: Simulation) -> None:
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
    h = default.interactions
    pairs = h.users[h.kinds == RATED].astype(np.int64) * 500 + h.items[h.kinds == RATED]
    assert len(np.unique(pairs)) == len(pairs)
    assert (np.bincount(h.kinds, minlength=4) > 0.05 * default.world.events).all()
    assert set(np.unique(h.halves)) == set(range(1, 11))


def test_popularity_and_activity_are_uneven(default: Simulation) -> None:
    for column in (default.interactions.users, default.interactions.items):
        counts = np.sort(np.bincount(column))[::-1]
        assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()


def test_popularity_follows_zipf_with_about_the_exponent_asked_for() -> None:
    """Preferences bend the first ranks and newcomers the last; between them it is a line of slope -.55."""
    items = World(users=2_000, items=2_000, events=300_000).interactions().items
    counts = np.sort(np.bincount(items))[::-1]
    ranks = np.arange(1, len(counts) + 1)
    slope, _ = np.polyfit(np.log(ranks[40:1000]), np.log(counts[40:1000]), 1)
    assert 0.45 < -slope < 0.65


def test_faults_have_the_requested_shares_and_change_nothing_else(small: Simulation, faulty: Simulation) -> None:
    assert (faulty.duplicates, faulty.late, faulty.bad) == (100, 80, 60)
    assert len(faulty) == len(small) + 160
    assert np.array_equal(faulty.interactions.means, small.interactions.means)
    assert np.array_equal(faulty.interactions.halves, small.interactions.halves)
    seen, again, behind, newest = set[str](), 0, 0, 0
    for event in decoded(faulty):
        if isinstance(event, ItemUpdate):
            continue
        assert event.timestamp_ms is not None
        if event.event_id in seen:
            again += 1
        elif event.event_id is not None:  # a broken one whose id or kind is wrong decodes, and has none
            behind += event.timestamp_ms < newest - 3_000_000
            newest = max(newest, event.timestamp_ms)
            seen.add(event.event_id)
    assert (len(seen), again) == (2_000, 100)
    assert 75 <= behind <= 80  # of the last to come, some have nothing left to be behind of


def test_rows_arrive_in_order_and_late_events_keep_their_own_time(faulty: Simulation) -> None:
    arrived = faulty.times_ms(0, len(faulty))
    assert arrived == sorted(arrived)
    waited = []
    for sent, at in zip(faulty.messages(0, len(faulty)), arrived, strict=True):
        with contextlib.suppress(msgspec.DecodeError):
            event = msgspec.json.decode(sent.value or b"", type=KINDS[sent.topic])
            if not isinstance(event, ItemUpdate) and event.event_id:
                waited.append(at - event.timestamp_ms)
    assert min(waited) == 0
    assert sum(wait >= 3_600_000 for wait in waited) >= 80
    assert max(waited) < 90_000_000


def test_repeated_events_count_once_bad_ones_are_dead_letters_by_reason_and_late_ones_are_learned(
    faulty: Simulation, tmp_path: Path
) -> None:
    memory = learned(faulty, tmp_path, rating_learner="bias")
    assert sum(memory.monitor.events[topic]["learned"] for topic in ("ratings", "clicks")) == 2_000
    assert sum(memory.monitor.events[topic]["duplicate"] for topic in ("ratings", "clicks")) == 100
    dead = {reason: count for reason, count in memory.monitor.dead_letters.items() if count}
    assert dead == {"not_json": 20, "out_of_range": 10, "bad_id": 10, "wrong_type": 20}
    assert memory.monitor.regret.ratings == faulty.rated.sum()


def test_catalogue_first_changes_only_the_order(small: Simulation) -> None:
    first = SMALL.stream(catalogue_first=True).messages(0, 3000)
    assert [sent.topic for sent in first[:30]] == ["items"] * 30
    assert first == sorted(small.messages(0, 3000), key=lambda sent: sent.topic != "items")


def test_a_shock_turns_tastes_at_its_day_and_not_before() -> None:
    calm, shocked = (replace(SMALL, shock_day=day, shock_share=0.4).interactions() for day in (None, 5.0))
    before = calm.times_ms < START_MS + 5 * DAY_MS
    same = calm.means == shocked.means
    assert same[before].all()
    assert set(calm.users[~same].tolist()) <= set(shocked.users[~before].tolist())
    assert 5 < len(set(calm.users[~same].tolist())) <= 20


@pytest.mark.slow
def test_learners_errors_rise_at_a_shock_and_recover(tmp_path: Path) -> None:
    world = World(users=300, events=40_000, turn=0.0)
    calm = hybrid_regrets(world.stream(), tmp_path / "calm")
    stream = replace(world, shock_day=30.0, shock_share=1.0).stream()
    shocked = hybrid_regrets(stream, tmp_path / "shocked")
    at = int(np.searchsorted(stream.times_ms(0, len(stream)), START_MS + 30 * DAY_MS)) // STEP  # the step it falls into
    assert shocked[:at] == calm[:at]
    assert max(shocked[at + 3 : at + 9]) > 1.15 * max(calm[at + 3 : at + 9])
    assert shocked[-1] < 0.9 * max(shocked[at + 3 : at + 9])


def hybrid_regrets(stream: Stream, folder: Path) -> list[float]:
    """Over the last 1,000 ratings, after each micro-batch."""
    found: list[float] = []
    learned(stream, folder, lambda memory: found.append(memory.monitor.regret.above_oracle("bayesian-hybrid", 1000)))
    return found


def rmse(errors: Array) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


def test_user_and_item_means_are_far_from_the_oracle(default: Simulation) -> None:
    """The oracle's RMSE is .774; user and item means, fully known, are far above it, and a constant is at 1.04."""
    h = default.interactions
    rated = h.kinds == RATED
    y, users, items = h.halves[rated] / 2, h.users[rated], h.items[rated]
    best = default.oracle_rmse or 0
    user_bias, item_bias, mean = np.zeros(1_000), np.zeros(500), y.mean()
    for _ in range(10):
        item_bias = np.bincount(items, y - mean - user_bias[users], 500) / (np.bincount(items, minlength=500) + 3)
        user_bias = np.bincount(users, y - mean - item_bias[items], 1_000) / (np.bincount(users, minlength=1_000) + 5)
    biases = rmse(y - mean - user_bias[users] - item_bias[items])
    assert 0.75 < best < 0.80
    assert best + 0.1 < biases < 0.95
    assert 1.0 < rmse(y - mean) < 1.1


@pytest.mark.parametrize(
    "world",
    [World(1, 1, 1, 1), World(2, 3, 500, 1), World(3, 9_000, 100, 2), World(2, 2, 9, 3, shock_day=0, shock_share=1)],
)
def test_extreme_settings_give_valid_worlds(world: World) -> None:
    assert len(decoded(world.stream())) == world.items + world.events


def test_a_world_may_consist_of_faults_only() -> None:
    stream = World(5, 5, 60, 2, duplicates=1, late=1, bad=1).stream()
    assert len(stream) == len(stream.messages(0, 999)) == 5 + 3 * 60


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"users": 0}, "with users of at least 1 and at most 100000000, found 0"),
        ({"seed": -1}, "with seed of at least 0, found -1"),
        ({"late": 1.5}, "with late of at least 0 and at most 1, found 1.5: give less"),
        ({"bad": float("nan")}, "found nan: give a number"),
        ({"shock_day": 60.0}, "within the 60 days .* shock_day 60"),
    ],
)
def test_invalid_settings_of_a_world_are_refused_with_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadSettings, match=sentence):
        World(**settings)


def test_a_replay_publishes_every_row_in_order_and_reports_progress(small: Simulation) -> None:
    sink, progress = MemorySink(), list[tuple[int, int]]()
    done = replay(small, sink, progress=lambda *now: progress.append(now), chunk=300)
    sent = small.messages(0, len(small))
    assert [(r.topic, r.key, r.value) for r in sink.records] == [(m.topic, m.key, m.value) for m in sent]
    assert progress == [(300, 2030), (600, 2030), (900, 2030), (1200, 2030), (1500, 2030), (1800, 2030), (2030, 2030)]
    assert done.messages == 2030
    assert done.topics == {topic: sum(m.topic == topic for m in sent) for topic in KINDS}
    assert list(done.offsets.values()) == [2030]


class Failing:
    """A sink that becomes unavailable after some calls."""

    def __init__(self, calls: int) -> None:
        self.inner, self.calls = MemorySink(), calls

    def publish(self, messages: Sequence[Message]) -> Offsets:
        self.calls -= 1
        if self.calls < 0:
            raise SourceUnavailable("away")
        return self.inner.publish(messages)

    def close(self) -> None:
        self.inner.close()


def test_a_replay_continues_from_reported_progress(small: Simulation) -> None:
    sink, progress = Failing(calls=3), [0]
    with pytest.raises(SourceUnavailable):
        replay(small, sink, progress=lambda done, total: progress.append(done))
    sink.calls = 100
    replay(small, sink, start=progress[-1])
    assert [r.value for r in sink.inner.records] == [m.value for m in small.messages(0, len(small))]


def test_long_events_are_published_in_smaller_chunks(small: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 1_000)
    sink, progress = MemorySink(), [0]
    replay(small, sink, progress=lambda done, total: progress.append(done))
    sizes = [sum(len(r.value or b"") for r in sink.records[a:b]) for a, b in pairwise(progress)]
    assert max(sizes) <= 1_000
    assert [r.value for r in sink.records] == [m.value for m in small.messages(0, len(small))]
