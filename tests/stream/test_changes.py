"""Ratings in place of earlier ones, retractions, and clicks repeated within seconds: what each event becomes, and what is known after it."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from crowd import unfold_heads
from learning import digest, records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.batch import CLICK, RATING, REPEATED, REPLACED, RETRACTED, Batch
from streamer.core.events import Click, Event, Rating, Record, message
from streamer.core.protocols import Row
from streamer.core.superseded import current, holding, mark_repeated
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.history import History
from streamer.stream.history_rows import EVENT
from streamer.stream.memory import Memory

S = 1000  # ms


def rate(rating: float | None, at_s: float = 0, item: str = "a", user: str = "u") -> Rating:
    return Rating(user, item, rating, round(S * at_s))


def click(at_s: float, kind: str = "click", item: str = "a", user: str = "u") -> Click:
    return Click(user, item, kind, round(S * at_s))


class Learned:
    """A memory that has learned events, with its batches."""

    def __init__(self, folder: Path, entries: Sequence[Record], cut: int = 100, **flags: object) -> None:
        chosen = settings(**{"rating_learner": "bias", "click_learner": "popularity"} | flags)
        self.store = RocksStore(folder)
        self.memory = Memory(learners(chosen), chosen, self.store)
        self.batches: list[Batch] = []
        learn = self.memory.learners.learn

        def learned(batch: Batch) -> object:
            self.batches.append(batch)
            return learn(batch)

        self.memory.learners.learn = learned  # type: ignore[method-assign,assignment]  # looked at, not replaced
        source = MemorySource(entries)
        source.seek(self.memory.ledger.offsets)
        engine = Engine(source, self.memory, NullObserver(), max_records=cut, commit_interval_s=1.0)
        while engine.step(0.0):
            pass
        engine.commit()

    @property
    def kinds(self) -> list[int]:
        return [kind for batch in self.batches for kind in batch.kinds.tolist()]

    def counts(self, topic: str) -> dict[str, int]:
        return {outcome: count for outcome, count in self.memory.monitor.events[topic].items() if count}


@pytest.mark.parametrize("cut", [1, 2, 100])
@pytest.mark.parametrize(
    ("events", "kinds"),
    [
        ([rate(3), rate(4)], [RATING, REPLACED]),
        ([rate(3), rate(3)], [RATING, REPEATED]),
        ([rate(3), rate(4), rate(4), rate(3)], [RATING, REPLACED, REPEATED, REPLACED]),
        ([rate(3), rate(None), rate(3)], [RATING, RETRACTED, RATING]),
        ([rate(3), rate(4), rate(None), rate(None)], [RATING, REPLACED, RETRACTED, REPEATED]),
        ([rate(None), rate(3)], [REPEATED, RATING]),
        ([rate(3), rate(3, item="b"), rate(3, user="v"), rate(2)], [RATING, RATING, RATING, REPLACED]),
        ([click(0), rate(3), rate(4), click(9)], [CLICK, RATING, REPLACED, CLICK]),
        ([click(0), click(1), click(2), click(2.1)], [CLICK, REPEATED, REPEATED, CLICK]),  # from the last that counted
        ([click(0), click(0), click(-1)], [CLICK, REPEATED, REPEATED]),  # late by a second
        ([click(0), click(1, "view"), click(1, item="b"), click(1, user="v"), click(2)], [CLICK] * 4 + [REPEATED]),
        ([click(0), *(click(0, item=f"i{n}") for n in range(8)), click(1)], [CLICK] * 10),  # not one of the last 8
        ([click(0), *(click(0, item=f"i{n}") for n in range(7)), click(1)], [CLICK] * 8 + [REPEATED]),
    ],
)  # fmt: skip
def test_what_an_event_becomes(tmp_path: Path, events: list[Event], kinds: list[int], cut: int) -> None:
    assert Learned(tmp_path, records(events), cut).kinds == kinds


def test_the_click_window_is_a_setting_and_0_turns_it_off(tmp_path: Path) -> None:
    twice = records([click(0), click(1)])
    assert Learned(tmp_path / "off", twice, click_window_s=0).kinds == [CLICK, CLICK]
    assert Learned(tmp_path / "short", twice, click_window_s=0.999).kinds == [CLICK, CLICK]
    assert Learned(tmp_path / "long", twice, click_window_s=1).kinds == [CLICK, REPEATED]


def test_a_click_without_a_time_of_its_own_is_never_taken_for_a_double_click(tmp_path: Path) -> None:
    """A file without times says nothing about seconds, although its records have the times at which they were read."""
    assert Learned(tmp_path, records([Click("u", "a")] * 3)).kinds == [CLICK] * 3


@pytest.mark.parametrize("earlier", [0, 26, 31, 32, 33, 63])
def test_a_double_click_is_one_over_a_restart_and_the_end_of_a_block(tmp_path: Path, earlier: int) -> None:
    """Blocks of a history have 32 events; the first of the two clicks may be in the one before the newest."""
    first = [click(0, item=f"i{n}") for n in range(earlier)] + [click(0), *(click(0, item=f"j{n}") for n in range(5))]
    Learned(tmp_path, records(first)).store.close()
    assert Learned(tmp_path, records([*first, click(1), click(1, item="new")])).kinds == [REPEATED, CLICK]


def test_outcomes_are_counted_and_a_rating_in_place_of_another_one_has_no_error(tmp_path: Path) -> None:
    events = [rate(3), rate(4), rate(4), rate(None), rate(None), rate(5), click(0, item="b"), click(1, item="b")]
    learned = Learned(tmp_path, records(events))
    assert learned.counts("ratings") == {"learned": 6, "replaced": 1, "repeated": 1, "retracted": 1, "not_rated": 1}
    assert learned.counts("clicks") == {"learned": 2, "repeated": 1}
    assert learned.memory.monitor.errors["bias"].ratings == 2


def test_a_withdrawn_item_is_no_longer_seen_unless_it_was_clicked(tmp_path: Path) -> None:
    events = [rate(3, item=item) for item in "abc"] + [click(0, item="b"), rate(None, item="a"), rate(None, item="b")]
    first = Learned(tmp_path, records(events))
    seen = {first.memory.items.ids[row] for row in first.memory.users.view("u").seen.tolist()}
    assert seen == {"b", "c"}
    first.store.close()
    again = Learned(tmp_path, records(events))  # from the store
    assert {again.memory.items.ids[row] for row in again.memory.users.view("u").seen.tolist()} == seen


def test_likes_are_taken_back_and_a_like_that_stays_one_counts_once(tmp_path: Path) -> None:
    """Popularity counts likes: ratings of 4 and more on a scale to 5."""
    events = [
        rate(5, item="top"),
        rate(5),
        rate(4, user="v"),
        rate(4),
        rate(2, user="v"),
        rate(1, user="w"),
        rate(5, user="w"),
    ]
    learned = Learned(tmp_path, records(events))
    popularity = learned.memory.learners.by_name["popularity"].tables()
    assert popularity["item"].values[:2, 0].tolist() == [1, 2]  # a: u's like, which stayed one, and w's
    assert popularity["stream"].values[0].tolist() == [3, 0]
    assert not learned.memory.users.view("v").clicked
    assert learned.memory.users.view("u").clicked


@pytest.mark.parametrize(("cut", "cache_bytes"), [(1, 1 << 30), (7, 0), (1000, 0)])
def test_ratings_are_remembered_over_evictions_restarts_and_any_cut(tmp_path: Path, cut: int, cache_bytes: int) -> None:
    """Compared with a plain dict, over several pages of seen items and blocks of history."""
    random = np.random.default_rng(3)
    events: list[Event] = []
    for n in range(1500):
        value = None if n % 9 == 0 else float(random.integers(1, 4))
        events.append(Rating(f"u{n % 3}", f"i{random.integers(300)}", value, n * S))
    rated: dict[tuple[str, str], float] = {}
    expected = []
    for event in events:
        assert isinstance(event, Rating)
        pair, value = (event.user_id, event.item_id), event.rating
        before = rated.get(pair)
        rated |= {pair: value} if value is not None else {}
        if value is None:
            rated.pop(pair, None)
        expected.append(
            (REPEATED if before is None else RETRACTED) if value is None
            else RATING if before is None else REPEATED if before == value else REPLACED
        )  # fmt: skip
    stream, kinds = records(events), []
    for stop in (450, 1000, 1500):  # a restart after each
        part = Learned(tmp_path, stream[:stop], cut, user_cache_bytes=cache_bytes)
        kinds += part.kinds
        part.store.close()
    assert kinds == expected
    assert digest(tmp_path).digest == _whole_digest(tmp_path / "whole", stream)


def _whole_digest(folder: Path, stream: Sequence[Record]) -> str:
    Learned(folder, stream, 1000).store.close()
    return digest(folder).digest


def test_a_whole_history_is_judged_as_event_by_event(tmp_path: Path) -> None:
    """`superseded`, which the archive and the trainers use, agrees with the encoder."""
    random = np.random.default_rng(5)
    events: list[Event] = []
    for n in range(3000):
        user, item = f"u{random.integers(20)}", f"i{random.integers(15)}"
        value = float(random.integers(1, 4))
        events.append(
            Click(user, item, ("view", "cart")[n % 2], n * 400) if n % 3 == 0 else Rating(user, item, value if n % 7 else None, n * 400)
        )  # fmt: skip
    learned = Learned(tmp_path, records(events))
    users = np.unique([event.user_id for event in events], return_inverse=True)[1].astype(np.int32)  # type: ignore[union-attr]
    items = np.unique([event.item_id for event in events], return_inverse=True)[1].astype(np.int32)  # type: ignore[union-attr]
    codes = np.array([1 + (e.kind == "cart") if isinstance(e, Click) else 0 for e in events], np.int32)
    said = [0.0 if isinstance(e, Click) or e.rating is None else e.rating for e in events]
    kinds = np.array([CLICK if isinstance(e, Click) else RETRACTED if e.rating is None else RATING for e in events], np.uint8)  # fmt: skip
    values, times_ms = np.array(said, np.float32), 400 * np.arange(len(events))
    mark_repeated(users, items, codes, values, times_ms, times_ms >= 0, kinds, 2000)
    known = np.array(learned.kinds)
    assert (kinds == REPEATED).tolist() == (known == REPEATED).tolist()
    assert (known == REPLACED).any()
    last = {(u, i): k for k, (u, i) in enumerate(zip(users.tolist(), items.tolist(), strict=True)) if known[k] not in (CLICK, REPEATED)}  # fmt: skip
    kept = {k for k in last.values() if known[k] != RETRACTED} | set(np.flatnonzero(known == CLICK).tolist())
    for judged in (kinds, known.astype(np.uint8)):
        assert set(np.flatnonzero(holding(users, items, judged, values)).tolist()) == kept


def test_a_state_of_an_earlier_version_opens_and_goes_on(tmp_path: Path) -> None:
    """It knows no ratings of its users, so the first rating anew is one more rating; the setting that it lacks is taken."""
    Learned(tmp_path, records([rate(3), rate(4, item="b")])).store.close()
    store = RocksStore(tmp_path)
    (value,) = store.read("meta", [b"meta"])
    assert value is not None
    meta = msgspec.json.decode(value)
    del meta["settings"]["click_window_s"]
    assert unfold_heads(store) == 1
    old = [Row("users/rated", key, None) for key, _ in store.scan("users/rated")]
    store.commit([*old, Row("meta", b"meta", msgspec.json.encode(meta, order="deterministic"))], store.offsets())
    store.close()
    stream = [*records([rate(3), rate(4, item="b")]), *records([rate(2), rate(1), rate(None)], start=2)]
    after = Learned(tmp_path, stream, click_window_s=5)
    assert after.kinds == [RATING, REPLACED, RETRACTED]
    assert after.memory.users.view("u").seen.tolist() == [0, 1]  # whether a was clicked is not known
    after.store.close()
    with pytest.raises(Exception, match=r"click_window_s 5.0, the settings say 2.0"):
        Learned(tmp_path, [])


def test_a_retraction_is_a_message_with_a_null_rating() -> None:
    sent = message(rate(None))
    assert sent.value == b'{"user_id":"u","item_id":"a","rating":null,"timestamp_ms":0}'


def test_of_events_that_all_hold_nothing_is_copied(tmp_path: Path) -> None:
    from streamer.core.batch import Events

    users, kinds = np.zeros(3, np.int32), np.array([RATING, CLICK, RATING], np.uint8)
    events = Events(["u"], ["a", "b"], users, np.array([0, 0, 1], np.int32), kinds, np.ones(3, np.float32), np.arange(3), np.arange(3, dtype=np.uint64))  # fmt: skip
    assert current(events) is events


def test_a_rating_on_an_earlier_scale_is_not_taken_back_and_its_retraction_still_counts() -> None:
    """What it is on the new scale is not known: a rating anew counts as one more, and a retraction makes the item unseen."""
    history = History()
    history.reserve(1)

    def remember(kind: int, value: float, era: int) -> tuple[int, float]:
        kinds, one = np.array([kind], np.uint8), np.zeros(1, np.int32)
        back = history.remember(
            one, one, kinds, np.array([value], np.float32), np.zeros(1, np.float32), np.zeros(1, np.int64), one == 0,
            np.array([era], np.uint8), np.zeros(1, EVENT), 0, ["u"],
        ).taken_back  # fmt: skip
        return int(kinds[0]), float(back.earlier[0])

    assert remember(RATING, 4.0, 0)[0] == RATING
    assert remember(RATING, 3.0, 0) == (REPLACED, 4.0)
    assert remember(RATING, 3.0, 1)[0] == RATING
    assert remember(RATING, 3.0, 1)[0] == REPEATED
    assert remember(RETRACTED, 0.0, 2)[0] == RETRACTED
    assert history.seen_items(0).tolist() == []


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_like_on_an_earlier_scale_is_taken_back_however_the_log_is_cut(tmp_path: Path, cut: int) -> None:
    """Its rating cannot be compared any more, but that it was a like is known: all items have as many likes as if it had not been one."""
    stars = [rate(4 + n % 2, n, f"i{n % 20}", f"u{n // 20}") for n in range(400)]
    hundred = [rate(80 + 20 * (n % 2), 400 + n, f"i{n % 20}", f"v{n // 20}") for n in range(400)]
    anew = [rate(value, 800 + n, f"i{n}", "u0") for n, value in enumerate([10.0, 90.0])]
    learned = Learned(tmp_path, records([*stars, *hundred, *anew]), cut)
    assert (learned.memory.monitor.scale.changes, learned.kinds[-2:]) == (1, [RATING, RATING])
    likes = learned.memory.learners.by_name["popularity"].tables()["item"].values[:20, 0]
    assert likes[:2].tolist() == [likes[2] - 1, likes[3]]
