"""The monitor: rolling errors and drift equal river's, do not depend on batch sizes, and are restored byte for byte."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from math import isnan, sqrt
from typing import Any

import msgspec
import numpy as np
import pytest

from streamer.core.arrays import F32, F64
from streamer.core.batch import CLICK, RATING, Batch, Seen
from streamer.core.errors import BadState, Reason
from streamer.core.events import Offsets
from streamer.core.protocols import Persistent, Row
from streamer.monitoring.monitor import OUTCOMES, TABLE, WINDOWS, Errors, Monitor

NAME = "biased-mf"


class Store:
    """Rows in a dict."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return [self.rows.get((table, key)) for key in keys]

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted((key, value) for (name, key), value in self.rows.items() if name == table)

    def commit(self, rows: Iterable[Row], offsets: Offsets) -> None:
        for row in rows:
            assert row.value is not None
            self.rows[row.table, row.key] = row.value


def batch(values: Sequence[float], kinds: Sequence[int] | None = None) -> Batch:
    n = len(values)
    rows = np.zeros(n, np.int32)
    seen = Seen(np.zeros((0, 64), np.int32), np.zeros((0, 1), np.int32), np.zeros(0, np.int64), 4096)
    return Batch(
        np.asarray([RATING] * n if kinds is None else kinds, np.uint8), rows, rows,
        np.asarray(values, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64), np.zeros(n, np.uint64),
        np.full(n, 1, np.float32), np.full(n, 5, np.float32), np.zeros(n, np.int64), seen,
    )  # fmt: skip


def rivers(kind: Any, **parameters: Any) -> Any:
    """An object of river, which is not fully typed."""
    return kind(**parameters)


def stream(n: int) -> tuple[F32, F32]:
    """Ratings, and predictions that are much worse in the middle third."""
    generator = np.random.default_rng(1)
    values = generator.integers(1, 6, n).astype(np.float32)
    spread = np.where(np.arange(n) // (n // 3) == 1, 2.0, 0.5)
    return values, (values + generator.normal(0, spread)).astype(np.float32)


def squares(values: F32, predictions: F32) -> F64:
    return np.square(predictions.astype(np.float64) - values.astype(np.float64))


def learn(monitor: Monitor, values: F32, predictions: F32, cut: int) -> None:
    for start in range(0, len(values), cut):
        part = slice(start, start + cut)
        monitor.observe(batch(values[part].tolist()), {NAME: predictions[part]})


def commit(monitor: Monitor, store: Store) -> list[Row]:
    rows = list(monitor.changed())
    store.commit(rows, {})
    monitor.committed()
    return rows


def restored(store: Store) -> Monitor:
    monitor = Monitor([(NAME, "ratings")])
    monitor.restore(store)
    return monitor


@pytest.mark.slow  # river loads scipy
def test_rolling_rmse_equals_rivers() -> None:
    from river import metrics, utils

    values, predictions = stream(12_345)
    rolling = {window: rivers(utils.Rolling, cls=metrics.RMSE, window_size=window) for window in WINDOWS}
    ever = rivers(metrics.RMSE)
    for value, prediction in zip(values.tolist(), predictions.tolist(), strict=True):
        ever.update(value, prediction)
        for one in rolling.values():
            one.update(value, prediction)
    monitor = Monitor([(NAME, "ratings")])
    learn(monitor, values, predictions, cut=500)
    errors = monitor.errors[NAME]
    for window in WINDOWS:
        assert errors.rmse(window) == pytest.approx(rolling[window].get(), rel=1e-9)
    assert errors.rmse() == pytest.approx(ever.get(), rel=1e-9)
    assert len({round(errors.rmse(window), 3) for window in (*WINDOWS, None)}) == 3


@pytest.mark.slow
def test_drifts_equal_those_of_rivers_adwin() -> None:
    from river import drift

    values, predictions = stream(6_000)
    adwin, at = rivers(drift.ADWIN), []
    for k, error in enumerate(squares(values, predictions).tolist()):
        adwin.update(error)
        if adwin.drift_detected:
            at.append(k)
    monitor, seen = Monitor([(NAME, "ratings")]), []
    for k in range(len(values)):
        before = monitor.errors[NAME].drift.detections
        learn(monitor, values[k : k + 1], predictions[k : k + 1], cut=1)
        if monitor.errors[NAME].drift.detections > before:
            seen.append(k)
    assert seen == at
    assert len(at) >= 2


def test_the_state_does_not_depend_on_batch_sizes() -> None:
    values, predictions = stream(11_000)
    stores = []
    for cut in (1, 7, 1000, 11_000):
        store, monitor = Store(), Monitor([(NAME, "ratings")])
        learn(monitor, values, predictions, cut)
        commit(monitor, store)
        stores.append(store.rows)
    assert stores[0] == stores[1] == stores[2] == stores[3]


def test_a_restart_anywhere_continues_exactly() -> None:
    values, predictions = stream(11_000)
    whole, uninterrupted = Store(), Monitor([(NAME, "ratings")])
    learn(uninterrupted, values, predictions, cut=100)
    uninterrupted.dead_letter("ratings", Reason.NOT_JSON)
    commit(uninterrupted, whole)

    store, monitor = Store(), Monitor([(NAME, "ratings")])
    monitor.dead_letter("ratings", Reason.NOT_JSON)
    for start, stop in ((0, 3), (3, 256), (256, 5_100), (5_100, 10_500), (10_500, 11_000)):
        learn(monitor, values[start:stop], predictions[start:stop], cut=100)
        commit(monitor, store)
        learn(monitor, values[:50], predictions[:50], cut=50)  # lost with the process
        monitor = restored(store)
    assert store.rows == whole.rows
    assert monitor.errors[NAME].rmse(1000) == uninterrupted.errors[NAME].rmse(1000)
    assert monitor.errors[NAME].drift.detections == uninterrupted.errors[NAME].drift.detections > 0
    assert monitor.events == uninterrupted.events
    assert monitor.dead_letters == uninterrupted.dead_letters


def test_after_a_failed_commit_the_same_rows_are_given_again_and_none_without_changes() -> None:
    values, predictions = stream(900)
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    learn(monitor, values[:600], predictions[:600], cut=100)
    first = list(monitor.changed())
    assert list(monitor.changed()) == first
    learn(monitor, values[600:], predictions[600:], cut=100)  # while the disk was full
    commit(monitor, store)
    assert restored(store).errors[NAME].rmse() == monitor.errors[NAME].rmse()
    assert commit(monitor, store) == []


def test_errors_observed_after_changed_do_not_count_as_committed() -> None:
    values, predictions = stream(900)
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    learn(monitor, values[:600], predictions[:600], cut=100)
    rows = monitor.changed()
    learn(monitor, values[600:], predictions[600:], cut=100)
    store.commit(rows, {})
    monitor.committed()
    commit(monitor, store)
    assert restored(store).errors[NAME].rmse(1000) == monitor.errors[NAME].rmse(1000)


def test_a_commit_rewrites_few_blocks() -> None:
    values, predictions = stream(9_000)
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    learn(monitor, values, predictions, cut=1000)
    commit(monitor, store)
    learn(monitor, values[:20], predictions[:20], cut=20)
    rows = commit(monitor, store)
    assert [row.key for row in rows] == [b"biased-mf/totals", b"biased-mf/drift", b"biased-mf/errors/00035", b"counts"]
    assert sum(len(row.value or b"") for row in rows) < 8_000


def test_only_ratings_are_errors_and_only_ratings_learners_have_them() -> None:
    monitor = Monitor([(NAME, "ratings"), ("skip-gram", "clicks")])
    learned = batch([4.0, 1.0, 2.0], kinds=[RATING, CLICK, RATING])
    predictions = {
        NAME: np.asarray([3, np.nan, 4], np.float32),
        "skip-gram": np.asarray([np.nan, 0.1, np.nan], np.float32),
    }
    monitor.observe(learned, predictions)
    assert list(monitor.errors) == [NAME]
    assert monitor.errors[NAME].rmse(1000) == sqrt((1 + 4) / 2)
    assert monitor.events["ratings"] == {outcome: 2 * (outcome == "learned") for outcome in OUTCOMES}
    assert monitor.events["clicks"]["learned"] == 1


def test_a_prediction_that_is_not_finite_is_counted_and_changes_no_error() -> None:
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    predictions = np.asarray([np.nan, 3.0, np.inf], np.float32)
    monitor.observe(batch([4.0, 4.0, 4.0]), {NAME: predictions})
    commit(monitor, store)
    for errors in (monitor.errors[NAME], restored(store).errors[NAME]):
        assert (errors.unpredicted, errors.ratings, errors.rmse()) == (2, 1, 1.0)


def test_before_the_first_rating_the_rmse_is_not_a_number() -> None:
    errors = Errors(NAME)
    assert isnan(errors.rmse())
    assert isnan(errors.rmse(1000))


def test_every_topic_outcome_and_reason_is_counted_from_the_start_and_no_other() -> None:
    monitor = Monitor([])
    assert set(monitor.events) == {"ratings", "clicks", "items", "users", "other"}
    assert set(monitor.dead_letters) == {str(reason) for reason in Reason}
    monitor.count("items", "learned", 3)
    monitor.count("ratings", "duplicate")
    monitor.dead_letter("made-up-by-a-producer", Reason.UNKNOWN_TOPIC)
    assert monitor.events["items"]["learned"] == 3
    assert monitor.events["ratings"]["duplicate"] == 1
    assert monitor.events["other"]["dead_letter"] == 1
    assert monitor.dead_letters["unknown_topic"] == 1
    assert "made-up-by-a-producer" not in monitor.events


def test_a_reason_that_came_later_is_stored_from_its_first_event_on() -> None:
    """Digests of states in which it never occurs stay what they were before it existed."""
    monitor, store = Monitor([]), Store()
    monitor.dead_letter("ratings", Reason.NOT_JSON)
    commit(monitor, store)
    assert not any(b"no_schema" in value for value in store.rows.values())
    monitor.dead_letter("ratings", Reason.NO_SCHEMA)
    commit(monitor, store)
    assert restored(store).dead_letters["no_schema"] == 1


def test_the_monitor_is_persistent() -> None:
    assert isinstance(Monitor([]), Persistent)


@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("biased-mf/totals", "cut"),
        ("biased-mf/drift", "cut"),
        ("biased-mf/drift", "flipped"),
        ("biased-mf/drift", "gone"),
        ("biased-mf/errors/00001", "cut"),
        ("biased-mf/errors/00001", "gone"),
        ("counts", "cut"),
    ],
)
def test_a_damaged_row_is_refused_with_a_sentence(key: str, harm: str) -> None:
    values, predictions = stream(900)
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    learn(monitor, values, predictions, cut=100)
    commit(monitor, store)
    value = store.rows.pop((TABLE, key.encode()))
    if harm != "gone":
        store.rows[TABLE, key.encode()] = (
            value[:-1] if harm == "cut" else value[:-9] + bytes([value[-9] ^ 1]) + value[-8:]
        )
    with pytest.raises(BadState, match=f"monitor/{key}.*restore a backup, or learn again"):
        restored(store)


def test_a_detector_of_another_river_version_keeps_its_count_starts_empty_and_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    values, predictions = stream(6_000)
    monitor, store = Monitor([(NAME, "ratings")]), Store()
    learn(monitor, values, predictions, cut=100)
    commit(monitor, store)
    row = msgspec.msgpack.decode(store.rows[TABLE, b"biased-mf/drift"])
    store.rows[TABLE, b"biased-mf/drift"] = msgspec.msgpack.encode(["0.0.1", *row[1:]])
    with caplog.at_level(logging.WARNING):
        again = restored(store)
    assert again.errors[NAME].drift.detections == monitor.errors[NAME].drift.detections > 0
    assert "river 0.0.1" in caplog.text
    learn(again, values, predictions, cut=100)
