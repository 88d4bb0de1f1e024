"""The scale of ratings: which range, which likes, which changes, by stream."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from streamer.core.arrays import F32
from streamer.core.batch import Change
from streamer.core.errors import BadState
from streamer.core.protocols import Row
from streamer.monitoring.scale import Scale, on_latest_scale, user_key

N, HALF = 900, 450
RANDOM = np.random.default_rng(1)
USERS = np.array([user_key(f"u{n}") for n in range(30)], dtype=np.uint64)[RANDOM.integers(0, 30, N)]
ITEMS = np.arange(N, dtype=np.int32) * 7 % 101
STARS = RANDOM.choice([1.0, 2.0, 3.0, 4.0, 5.0], N, p=[0.06, 0.12, 0.3, 0.34, 0.18])
TO_100 = 1 + (STARS - 1) * 99 / 4
LATER = np.arange(N) >= HALF


class Store:
    """What a commit wrote."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = {row.key: row.value for row in rows}

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        assert table == "stream"
        return [self.rows.get(key) for key in keys]


def follow(
    scale: Scale, values: np.ndarray, users: np.ndarray = USERS, cut: int = N, items: np.ndarray = ITEMS
) -> tuple[F32, F32, np.ndarray, list[Change]]:
    """Range ends before each event, likes and changes, from batches of `cut`."""
    lows, highs, likes, changes = [], [], [], []
    for start in range(0, len(values), cut):
        part = values[start : start + cut].astype(np.float32)
        found = scale.follow(
            np.ones(len(part), np.bool_), part, users[start : start + cut], items[start : start + cut], 0.8
        )
        lows.append(found.lows)
        highs.append(found.highs)
        likes.append(found.likes)
        changes += [one._replace(at=start + one.at) for one in found.changes]
    return np.concatenate(lows), np.concatenate(highs), np.concatenate(likes), changes


def with_one(place: int, value: float) -> np.ndarray:
    return np.where(np.arange(N) == place, value, STARS)


# values, the range at the end, the share of likes, changes of scale, what the values are taken for
STREAMS: list[tuple[str, np.ndarray, tuple[float, float], float, int, str]] = [
    ("1 to 5", STARS, (1, 5), 0.53, 0, "ratings"),
    ("0.5 to 5", STARS - 0.5 * (RANDOM.random(N) < 0.5), (0.5, 5), 0.36, 0, "ratings"),
    ("1 to 10", RANDOM.integers(1, 11, N) * 1.0, (1, 10), 0.3, 0, "ratings"),
    ("0 to 100", RANDOM.integers(0, 101, N) * 1.0, (0, 100), 0.2, 0, "ratings"),
    ("one 6", with_one(400, 6), (1, 5), 0.53, 0, "ratings"),
    ("one 10", with_one(400, 10), (1, 5), 0.53, 0, "ratings"),
    ("one 100", with_one(400, 100), (1, 5), 0.53, 0, "ratings"),
    ("one -100", with_one(400, -100), (1, 5), 0.53, 0, "ratings"),
    ("a 100 at first", with_one(0, 100), (1, 5), 0.53, 0, "ratings"),
    ("a 10 early", with_one(20, 10), (1, 5), 0.53, 0, "ratings"),
    ("2% of 50", np.where(RANDOM.random(N) < 0.02, 50, STARS), (1, 5), 0.54, 0, "ratings"),
    ("1 to 5, then 1 to 100", np.where(LATER, TO_100, STARS), (1, 100), 0.36, 1, "ratings"),
    ("1 to 5, then 1 to 10", np.where(LATER, 1 + (STARS - 1) * 9 / 4, STARS), (1, 10), 0.36, 1, "ratings"),
    ("1 to 100, then 1 to 5", np.where(LATER, STARS, TO_100), (1, 5), 0.36, 1, "ratings"),
    ("plays", np.floor(np.exp(RANDOM.normal(1, 1.2, N))) + 1, (1, 22), 0.38, 0, "counts, such as plays"),
    ("-10 to 10", RANDOM.integers(-10, 11, N) * 1.0, (-10, 10), 0.24, 0, "below and above 0"),
    ("thumbs", RANDOM.choice([-1.0, 1.0], N), (-1, 1), 0.5, 0, "below and above 0"),
    ("0 and 1", RANDOM.integers(0, 2, N) * 1.0, (0, 1), 0.5, 0, "ratings"),
    ("all 3", np.full(N, 3.0), (3, 3), 1.0, 0, "ratings"),
]


@pytest.mark.parametrize(
    ("values", "ends", "likes", "changes", "kind"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS]
)
def test_the_range_and_the_likes_are_those_of_nearly_all_ratings(
    values: np.ndarray, ends: tuple[float, float], likes: float, changes: int, kind: str
) -> None:
    scale = Scale()
    _, _, liked, found = follow(scale, values)
    assert (scale.low, scale.high) == pytest.approx(ends, abs=2.5 if "plays" in kind else 1e-6)
    assert liked.mean() == pytest.approx(likes, abs=0.035)
    assert scale.changes == changes
    assert scale.kind() == kind
    assert bool(found) == bool(changes)


@pytest.mark.parametrize("values", [row[1] for row in STREAMS[:4]], ids=[row[0] for row in STREAMS[:4]])
def test_on_a_scale_that_stays_the_range_is_that_of_the_ratings_so_far(values: np.ndarray) -> None:
    lows, highs, liked, _ = follow(Scale(), values)
    assert np.array_equal(lows[1:], np.minimum.accumulate(values)[:-1].astype(np.float32))
    assert np.array_equal(highs[1:], np.maximum.accumulate(values)[:-1].astype(np.float32))
    assert np.array_equal(liked, values >= 0.8 * np.maximum.accumulate(values))


@pytest.mark.parametrize("cut", [1, 7, 100])
@pytest.mark.parametrize("later", [TO_100, STARS / 20], ids=["wider", "narrower"])
def test_batches_and_restarts_change_nothing(cut: int, later: np.ndarray) -> None:
    values = np.where(LATER, later, with_one(100, 50))
    whole = Scale()
    expected = follow(whole, values)
    first, second = Scale(), Scale()
    before = follow(first, values[:460], cut=cut)
    second.restore(Store(first.changed()))
    first.committed()
    assert first.changed() == []
    after = follow(second, values[460:], USERS[460:], cut, ITEMS[460:])
    for n in range(3):
        assert np.array_equal(np.concatenate([before[n], after[n]]), expected[n])
    assert [*before[3], *(one._replace(at=one.at + 460) for one in after[3])] == expected[3]
    assert second.changed() == whole.changed()


def test_a_change_is_found_within_a_hundred_ratings_and_maps_one_range_to_the_other() -> None:
    for values, factor, shift in (
        (np.where(LATER, TO_100, STARS), 24.75, -23.75),
        (np.where(LATER, STARS, TO_100), 4 / 99, 95 / 99),
    ):
        _, _, _, changes = follow(Scale(), values)
        assert all(HALF < one.at < HALF + 100 for one in changes)
        whole = np.array([1.0, 3.0], dtype=np.float32)  # a few steps, as the ends of the new range come in
        found = on_latest_scale(whole, np.ones(2, np.bool_), [one._replace(at=2) for one in changes])
        assert found == pytest.approx(factor * whole + shift, rel=1e-5)


def test_a_change_is_found_in_a_catalogue_of_five_items() -> None:
    scale = Scale()
    _, _, _, changes = follow(scale, np.where(LATER, TO_100, STARS), items=np.arange(N, dtype=np.int32) % 5)
    assert (scale.low, scale.high, scale.changes) == (1, 100, 1)
    assert all(HALF < one.at < HALF + 100 for one in changes)


def test_one_user_alone_does_not_set_the_scale() -> None:
    users = np.where((np.arange(N) >= 300) & (np.arange(N) < 350), user_key("wild"), USERS).astype(np.uint64)
    wild = users == user_key("wild")
    scale = Scale()
    _, _, liked, changes = follow(scale, np.where(wild, 50.0, STARS), users)
    assert (scale.low, scale.high, scale.wild, changes) == (1, 5, 50, [])
    assert np.array_equal(liked[~wild], follow(Scale(), STARS)[2][~wild])


def test_a_clean_stream_of_users_who_come_one_after_the_other_has_no_change() -> None:
    """Each user gives 60 ratings in a row, some only high ones, some only low ones."""
    users = np.repeat(np.arange(1, 61, dtype=np.uint64), 60)
    taste = np.repeat(np.random.default_rng(2).choice([1, 2, 3, 4, 5], 60), 60)
    values = np.clip(taste + np.random.default_rng(3).integers(-1, 2, len(users)), 1, 5).astype(np.float64)
    scale = Scale()
    follow(scale, values, users, len(values), np.arange(len(users), dtype=np.int32))
    assert (scale.low, scale.high, scale.changes, scale.wild) == (1, 5, 0, 0)


def test_a_clean_stream_in_the_order_of_its_items_has_no_change() -> None:
    """Thirty users rate each item one after the other; some items are bad, and all of them say so."""
    items = np.repeat(np.arange(60, dtype=np.int32), 30)
    users = np.tile(np.arange(1, 31, dtype=np.uint64), 60)
    random = np.random.default_rng(4)
    quality = np.where(random.random(60) < 0.1, 1, random.choice([3, 4, 5], 60))
    values = np.clip(quality[items] + random.integers(-1, 2, len(users)), 1, 5).astype(np.float64)
    scale = Scale()
    follow(scale, values, users, len(values), items)
    assert (scale.low, scale.high, scale.changes) == (1, 5, 0)


def test_the_range_of_an_older_state_is_the_start() -> None:
    scale = Scale()
    scale.restore(Store([Row("stream", b"range", np.array([0.5, 50.0]).tobytes())]))
    assert (scale.low, scale.high) == (0.5, 50.0)
    follow(scale, STARS)
    assert (scale.low, scale.high) == (0.5, 5.0)
    with pytest.raises(BadState, match="the row of the scale of ratings has 3 bytes"):
        scale.restore(Store([Row("stream", b"scale", b"abc")]))


def test_clicks_are_left_alone_and_a_forgotten_user_leaves_nothing() -> None:
    scale = Scale()
    found = scale.follow(np.zeros(2, np.bool_), np.array([4.0, -1.0], np.float32), USERS[:2], ITEMS[:2], 0.8)
    assert found.learned.tolist() == [4.0, -1.0]
    assert found.likes.tolist() == [0, 0]
    assert found.lows.tolist() == [-np.inf] * 2
    assert scale.changed() == []
    follow(scale, STARS[:1])
    (row,) = scale.changed()
    key = USERS[:1].astype(np.uint32).tobytes()  # of which the longer one begins with it
    assert row.value.count(key) == 2
    scale.committed()
    scale.forget(int(USERS[0]))
    (row,) = scale.changed()
    assert key not in row.value
    scale.committed()
    scale.forget(int(USERS[1]))
    assert scale.changed() == []


SAID: list[tuple[np.ndarray, str]] = [
    (np.where(LATER, TO_100, STARS), "the scale of ratings has changed: it was 1 to 5 and is 1 to 100 now"),
    (with_one(400, 100), "1 rating was far outside the scale so far, which is 1 to 5, such as 100"),
    (STREAMS[14][1], "ratings are counts, such as plays: one above"),
    (STREAMS[15][1], "ratings are below and above 0: one of 6 or more is a like"),
]


@pytest.mark.parametrize(("values", "line"), SAID)
def test_what_is_found_is_said_once(values: np.ndarray, line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "streamer.monitoring.scale"):
        follow(Scale(), values, cut=50)
    assert sum(line in message for message in caplog.messages) == 1, caplog.messages
