"""Records to batches: what a learner sees depends only on the order of events, never on how the log is split."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from learning import digest, events, records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.batch import CLICK, RATING, REPLACED, Batch
from streamer.core.events import (
    LOG,
    Click,
    Event,
    ItemRemoval,
    ItemUpdate,
    Rating,
    Record,
    TopicPartition,
    UserRemoval,
    UserUpdate,
    message,
)
from streamer.core.seed import event_keys, sequence_key
from streamer.core.times import DAY_MS
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.encoder import sequence_code
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.memory import Memory

FIELDS = ("kinds", "items", "values", "clicks", "times_ms", "keys", "lows", "highs", "seen_counts")


class Cutter:
    """A source that returns records in batches of the given sizes, repeated cyclically."""

    def __init__(self, records: Sequence[Record], sizes: Sequence[int]) -> None:
        self.records, self.sizes, self.polls, self.next = records, sizes, 0, 0

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        start, self.polls = self.next, self.polls + 1
        self.next += self.sizes[self.polls % len(self.sizes)]
        return self.records[start : self.next]


class Seen:
    """Learns a stream and remembers every batch, with user ids in place of rows."""

    def __init__(self, folder: Path, stream: Sequence[Record], sizes: Sequence[int], **flags: object) -> None:
        chosen = settings(**flags)
        store = RocksStore(folder)
        self.memory = Memory(learners(chosen), chosen, store)
        self.users: list[str] = []
        self.batches: list[Batch] = []
        self.parts: list[int] = []
        engine = Engine(Cutter(stream, sizes), self.memory, NullObserver(), max_records=2000, commit_interval_s=3600.0)  # type: ignore[arg-type]  # polls only
        learn: Callable[[Batch], object] = engine.memory.learners.learn

        def learned(batch: Batch) -> object:
            self.batches.append(batch)
            self.users += [self.memory.users.ids[row] for row in batch.users.tolist()]
            return learn(batch)

        engine.memory.learners.learn = learned  # type: ignore[method-assign,assignment]  # looked at, not replaced
        while count := engine.step(0.0):
            self.parts.append(count)
        engine.commit()
        store.close()

    def field(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(batch, name) for batch in self.batches])

    def taken_back(self) -> list[tuple[float, ...]]:
        """The earlier rating, its age and the like taken back, of each event that takes something back."""
        rows = [tuple(map(float, row)) for batch in self.batches for row in zip(*batch.taken_back, strict=True)]
        return [row for row in rows if row[0] == row[0]]


STREAM = records(events(400))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, str]:
    folder = tmp_path_factory.mktemp("whole")
    return Seen(folder, STREAM, [2000]), digest(folder).digest


@pytest.mark.slow
@pytest.mark.parametrize("cache_bytes", [1 << 30, 30_000, 0])
@pytest.mark.parametrize("sizes", [[1], [7], [1000], [1, 400, 3, 50]])
def test_batches_do_not_depend_on_how_the_log_is_split(
    tmp_path: Path, whole: tuple[Seen, str], sizes: list[int], cache_bytes: int
) -> None:
    """With catalogue records, forgotten users, duplicates and bad events in mid-stream, and with a cache large or too small."""
    cut = Seen(tmp_path, STREAM, sizes, user_cache_bytes=cache_bytes)
    for name in FIELDS:
        assert cut.field(name).tobytes() == whole[0].field(name).tobytes(), name
    assert cut.taken_back() == whole[0].taken_back() != []
    assert cut.users == whole[0].users
    assert digest(tmp_path).digest == whole[1]
    assert (cut.memory.users.evictions > 0) == (cache_bytes < 1 << 30)


def test_a_batch_has_no_more_users_than_fit(tmp_path: Path) -> None:
    stream = records([Rating(f"u{n % 40}", f"i{n}", 3.0) for n in range(400)])
    cut = Seen(tmp_path, stream, [400], user_cache_bytes=30_000)
    most = max(len(np.unique(batch.users)) for batch in cut.batches)
    assert 1 <= most <= 30_000 // cut.memory.users._row_bytes
    assert sum(len(batch) for batch in cut.batches) == 400
    assert len(Seen(tmp_path / "wide", stream, [400]).batches) == 1


def kinds_of(cut: Seen) -> list[int]:
    return [len(batch) for batch in cut.batches]


def test_a_catalogue_record_ends_the_batch(tmp_path: Path) -> None:
    stream = records([
        Rating("u", "a", 3.0), Rating("u", "b", 3.0), ItemUpdate("c"), ItemRemoval("d"), UserUpdate("u"), Rating("u", "c", 3.0),
        b"bad", UserRemoval("u"), b"bad", Rating("u", "a", 3.0),
    ])  # fmt: skip
    cut = Seen(tmp_path, stream, [100])
    assert kinds_of(cut) == [2, 0, 1, 0, 1]
    assert cut.memory.ledger.offsets == {LOG: 10}
    assert cut.field("seen_counts").tolist() == [0, 1, 2, 0]  # forgotten in between
    assert cut.memory.items.ids == ["a", "b", "c", "d"]


def test_every_record_is_entered_in_the_ledger_once(tmp_path: Path, whole: tuple[Seen, str]) -> None:
    cut = Seen(tmp_path, STREAM, [64], user_cache_bytes=0)
    assert cut.memory.ledger.offsets == {LOG: len(STREAM)}
    counts = cut.memory.monitor.events
    ways = ("learned", "duplicate", "dead_letter")
    assert sum(outcomes[way] for outcomes in counts.values() for way in ways) == len(STREAM)
    assert counts == whole[0].memory.monitor.events


# What each event becomes.


@pytest.fixture
def one(tmp_path: Path) -> Callable[..., Seen]:
    made = iter(range(100))

    def learned(*given: Event | Record, **flags: object) -> Seen:
        stream = [event if isinstance(event, Record) else records([event], start=n)[0] for n, event in enumerate(given)]
        return Seen(tmp_path / f"{next(made)}", stream, [100], **flags)

    return learned


def at(appended_ms: int, event: Event, topic: str = "ratings", partition: int = -1, offset: int = 0) -> Record:
    sent = message(event)
    return Record(topic, partition, offset, appended_ms, sent.key, sent.value)


NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("said_ms", "learned_ms"),
    [
        (None, NOW),
        (NOW - 5, NOW - 5),
        (0, 0),
        (-5, -5),
        (1_700_000_000, 1_700_000_000_000),  # seconds, as milliseconds they would be of 1970
        (NOW + DAY_MS, NOW + DAY_MS),
        (NOW + DAY_MS + 1, NOW),  # more than a day ahead
        (2**53, NOW),
        (-(2**53), -9_007_199_254_741),  # microseconds
    ],
)
def test_a_time_is_the_events_own_unless_it_is_a_day_ahead(
    one: Callable[..., Seen], said_ms: int | None, learned_ms: int
) -> None:
    assert one(at(NOW, Rating("u", "i", 3.0, said_ms))).field("times_ms").tolist() == [learned_ms]
    assert one(at(NOW, Click("u", "i", "view", said_ms), "clicks")).field("times_ms").tolist() == [learned_ms]


def test_unlikely_times_are_counted_and_said_once(one: Callable[..., Seen], caplog: pytest.LogCaptureFixture) -> None:
    """A stream of which a tenth has such times is none to speak of."""
    for odd_ms, every, warnings in ((5, 1, 1), (NOW + 2 * DAY_MS, 1, 1), (5, 10, 0), (NOW, 1, 0)):
        caplog.clear()
        given = [at(NOW, Rating(f"u{n}", "i", 3.0, NOW if n % every else odd_ms), offset=n) for n in range(2000)]
        seen = one(*given)
        said = [
            record.getMessage() for record in caplog.records if "before 1990 or in the future" in record.getMessage()
        ]
        assert len(said) == warnings, said
        assert seen.memory.monitor.unlikely_times.events == (0 if odd_ms == NOW else 2000 // every)


def test_a_record_without_a_time_leaves_the_event_its_own(one: Callable[..., Seen]) -> None:
    """Kafka says -1 where a producer gave no time."""
    assert one(at(-1, Rating("u", "i", 3.0, NOW))).field("times_ms").tolist() == [NOW]


@pytest.mark.parametrize("appended_ms", [-1, 0, 2**63 - 1, -(2**63)])
def test_no_time_of_a_record_stops_the_stream(one: Callable[..., Seen], appended_ms: int) -> None:
    """A producer may write any time into a Kafka record."""
    found = one(at(appended_ms, Rating("u", "i", 3.0)), at(appended_ms, Rating("u", "i", 3.0, NOW), offset=1))
    assert len(found.field("times_ms")) == 2


def test_the_range_is_that_of_earlier_ratings(one: Callable[..., Seen]) -> None:
    found = one(
        Click("u", "i"), Rating("u", "i", 3.0), Rating("u", "i", 5.0), Click("u", "i", "purchase"), Rating("u", "j", 1.0),
        Rating("v", "i", 2.0),
    )  # fmt: skip
    inf = float("inf")
    assert found.field("lows").tolist() == [-inf, -inf, 3, 3, 3, 1]
    assert found.field("highs").tolist() == [inf, inf, 3, 5, 5, 5]
    assert found.field("kinds").tolist() == [CLICK, RATING, REPLACED, CLICK, RATING, RATING]
    assert found.field("values").tolist() == [1, 3, 5, 4, 1, 2]
    assert (found.memory.encoder.scale.low, found.memory.encoder.scale.high) == (1.0, 5.0)


def test_a_rating_near_the_highest_so_far_is_a_click_as_well(one: Callable[..., Seen]) -> None:
    ratings = [3.0, 2.0, 2.5, 5.0, 4.0, 3.5, 10.0, 8.0, 5.0]
    found = one(*[Rating("u", f"i{n}", value) for n, value in enumerate(ratings)])
    assert found.field("clicks").tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 0]
    strict = one(*[Rating("u", f"i{n}", value) for n, value in enumerate(ratings)], like_share=1.0)
    assert strict.field("clicks").tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]
    below = one(Rating("u", "i", -3.0), Rating("u", "i", -1.0), Rating("u", "i", 0.0), Rating("u", "i", 0.5))
    assert below.field("clicks").tolist() == [0, 0, 0, 1]  # nothing below 0 is liked


def test_a_click_has_the_weight_of_its_kind(one: Callable[..., Seen]) -> None:
    found = one(*[Click("u", "i", kind) for kind in ("view", "click", "cart", "purchase", "dislike")])
    assert found.field("clicks").tolist() == [np.float32(0.2), 1, 2, 4, -1]
    assert found.field("values").tolist() == found.field("clicks").tolist()


def test_a_kind_without_a_weight_is_learned_and_named_once(
    one: Callable[..., Seen], caplog: pytest.LogCaptureFixture
) -> None:
    given = [Click("u", "i", kind) for kind in ("wink", "View", "Wink", "Add_To_Cart", *(f"k{n}" for n in range(40)))]
    found = one(*given, *given)
    assert found.field("clicks").tolist()[:5] == [1, np.float32(0.2), 1, 2, 1]
    said = [record.getMessage() for record in caplog.records if "no weight in the setting" in record.getMessage()]
    assert len(said) == 21  # as many as are told apart, and one for all others
    assert said[0].startswith(
        "clicks of the kind 'wink' have no weight in the setting `kinds` and are learned with weight 1"
    )
    assert said[-1].startswith("further kinds of clicks have")
    assert found.memory.monitor.unknown_kinds.events["wink"] == 4
    assert sum(found.memory.monitor.unknown_kinds.events.values()) == 84
    strict = one(*given, unknown_kinds="reject")
    assert strict.memory.monitor.dead_letters["unknown_kind"] == 42
    assert strict.field("clicks").tolist() == [np.float32(0.2), 2]


def test_seen_counts_count_distinct_items_before_the_event(one: Callable[..., Seen]) -> None:
    found = one(
        Click("u", "a"), Click("u", "a"), Rating("u", "b", 3.0), Click("v", "a"), Click("u", "a"), Click("u", "c")
    )
    assert found.field("seen_counts").tolist() == [0, 1, 1, 0, 2, 2]


def test_an_events_key_depends_on_its_place_in_the_log(one: Callable[..., Seen]) -> None:
    found = one(
        at(0, Rating("u", "i", 3.0), "ratings", 2, 7), at(0, Rating("u", "i", 3.0), "ratings", 3, 7),
        at(0, Click("u", "i"), "clicks", 2, 7), at(0, Click("u", "i"), "clicks", 2, 8),
    )  # fmt: skip
    places = [("ratings", 2, 7), ("ratings", 3, 7), ("clicks", 2, 7), ("clicks", 2, 8)]
    wanted = [
        int(event_keys(sequence_key(1, TopicPartition(topic, partition)), np.array([offset]))[0])
        for topic, partition, offset in places
    ]
    assert found.field("keys").tolist() == wanted
    assert len(set(wanted)) == 4
    assert one(at(0, Rating("u", "i", 3.0), "ratings", 2, 7), seed=2).field("keys")[0] != wanted[0]


def test_an_event_id_counts_once_in_its_partition(one: Callable[..., Seen]) -> None:
    first, again = Rating("u", "i", 3.0, event_id="e"), Rating("u", "i", 1.0, event_id="e")
    assert one(first, again, Click("u", "i", event_id="e")).field("values").tolist() == [3.0]  # the log is one sequence
    apart = one(at(0, first, "ratings", 0), at(0, again, "ratings", 1), at(0, again, "ratings", 0, 1))
    assert apart.field("values").tolist() == [3.0, 1.0]
    counts = {outcome: count for outcome, count in apart.memory.monitor.events["ratings"].items() if count}
    assert counts == {"learned": 2, "replaced": 1, "duplicate": 1}


def test_an_empty_event_id_counts_as_none(one: Callable[..., Seen]) -> None:
    """Once all events but the first of a producer that sends empty strings were taken for duplicates."""
    assert one(*[Rating("u", "i", value, event_id="") for value in (1.0, 2.0, 3.0)]).field("values").tolist() == [
        1,
        2,
        3,
    ]


def test_a_duplicate_adds_no_user_and_no_item(one: Callable[..., Seen]) -> None:
    found = one(Rating("u", "i", 3.0, event_id="e"), Rating("new", "new", 9.0, event_id="e"))
    assert found.memory.items.ids == ["i"]
    assert found.memory.users.count == 1
    assert found.memory.encoder.scale.high == 3.0
    assert not found.memory.users.view("new").known


def test_a_bad_event_adds_no_user_and_no_item(one: Callable[..., Seen]) -> None:
    bad = Record("ratings", -1, 1, 0, b"new", b'{"user_id": "new", "item_id": "new", "rating": 1e12}')
    found = one(Rating("u", "i", 3.0), bad)
    assert found.memory.items.ids == ["i"]
    assert found.memory.users.row_of.keys() == {"u"}
    assert found.memory.dead_letters.count == 1
    assert found.memory.monitor.dead_letters["out_of_range"] == 1


def test_histories_name_sequences_by_number() -> None:
    codes = [sequence_code(TopicPartition(*at)) for at in (LOG, ("ratings", 0), ("ratings", 11), ("users", 0))]
    assert codes == [0, 1 << 20, (1 << 20) + 11, 4 << 20]


def test_the_range_of_ratings_survives_a_restart(tmp_path: Path) -> None:
    stream = records([Rating("u", "i", 2.0), Rating("u", "i", 4.0), Rating("u", "i", 3.0)])
    Seen(tmp_path, stream[:2], [2])
    store = RocksStore(tmp_path)
    memory = Memory(learners(settings()), settings(), store)
    assert (memory.encoder.scale.low, memory.encoder.scale.high) == (2.0, 4.0)
    assert memory.encoder.scale.changed() == []
    source = MemorySource(stream)
    source.seek(memory.ledger.offsets)
    Engine(source, memory, NullObserver(), max_records=9, commit_interval_s=9.0).step(0.0)
    assert (memory.encoder.scale.low, memory.encoder.scale.high) == (2.0, 4.0)
    store.close()
