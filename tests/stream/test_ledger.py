"""The ledger: how far each sequence was applied, and in what order, so that the state can be rebuilt byte for byte."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from learning import digest, settings
from partitions import Shuffled, partitioned

from streamer.consumers.memory import MemorySource
from streamer.core.errors import BadState
from streamer.core.events import LOG, Record, TopicPartition
from streamer.core.protocols import Row, Source
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.ledger import (
    TABLES_REPLACED,
    WENT_LIVE,
    JournalSource,
    Ledger,
    Run,
    journal,
    lineage,
    newest_runs,
    note,
    runs_after,
)
from streamer.stream.memory import Memory


def at(topic: str, partition: int, *offsets: int) -> list[Record]:
    return [Record(topic, partition, offset, 0, None, None) for offset in offsets]


def commit(ledger: Ledger, store: RocksStore) -> None:
    store.commit(ledger.changed(), ledger.offsets)
    ledger.committed()


def test_adjacent_runs_are_joined_across_gaps_in_offsets(tmp_path: Path) -> None:
    store, ledger = RocksStore(tmp_path), Ledger()
    ledger.advance(at("ratings", 0, 0, 1) + at("ratings", 1, 5) + at("clicks", 1, 0))
    ledger.advance(at("clicks", 1, 1, 2, 9))
    ledger.advance([])
    ledger.advance(at("clicks", 1, 12) + at("ratings", 0, 2))  # 3 to 8 and 10 to 11 were never records
    commit(ledger, store)
    assert journal(store) == [
        Run("ratings", 0, 0, 2), Run("ratings", 1, 5, 6), Run("clicks", 1, 0, 13), Run("ratings", 0, 2, 3),
    ]  # fmt: skip
    assert store.offsets() == {
        TopicPartition("ratings", 0): 3, TopicPartition("ratings", 1): 6, TopicPartition("clicks", 1): 13,
    }  # fmt: skip
    store.close()


def test_the_embedded_log_is_one_run_for_all_topics(tmp_path: Path) -> None:
    store, ledger = RocksStore(tmp_path), Ledger()
    for n in range(0, 100, 10):
        ledger.advance(at("ratings", -1, *range(n, n + 5)) + at("items", -1, *range(n + 5, n + 10)))
        commit(ledger, store)
    assert journal(store) == [Run("log", 0, 0, 100)]
    assert ledger.offsets == {LOG: 100}
    store.close()


def test_a_run_continues_after_a_restart_and_an_uncommitted_one_is_gone(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    for n in range(5):
        ledger = Ledger()
        ledger.start(store.offsets())
        ledger.restore(store)
        assert ledger.offsets == ({TopicPartition("ratings", 0): 10 * n} if n else {})
        ledger.advance(at("ratings", 0, *range(10 * n, 10 * n + 10)))
        commit(ledger, store)
        ledger.advance(at("clicks", 0, 77))  # lost in a crash
    assert journal(store) == [Run("ratings", 0, 0, 50)]
    store.close()


def test_a_start_reads_one_run_of_a_long_journal(tmp_path: Path) -> None:
    """Twelve partitions make millions of runs a day."""
    store, ledger = RocksStore(tmp_path), Ledger()
    for n in range(300):
        ledger.advance(at("ratings", n % 3, n // 3))
    commit(ledger, store)
    again = Ledger()
    again.start(store.offsets())
    again.restore(Unscanned(store))
    again.advance(at("ratings", 2, 100) + at("ratings", 0, 100))  # joins the last run, and begins another
    commit(again, store)
    runs = journal(store)
    assert len(runs) == 301
    assert runs[-2:] == [Run("ratings", 2, 99, 101), Run("ratings", 0, 100, 101)]
    store.commit([Row("journal", (300).to_bytes(8, "big"), None)], {})
    with pytest.raises(BadState, match="run 300 of the apply journal is missing: restore a backup"):
        Ledger().restore(store)
    store.close()


class Unscanned:
    """A store that fails when it is scanned."""

    def __init__(self, store: RocksStore) -> None:
        self.read, self.commit = store.read, store.commit

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        raise AssertionError(table)


def test_offsets_given_to_others_never_change() -> None:
    ledger = Ledger()
    ledger.advance(at("ratings", 0, 0))
    held = ledger.offsets
    ledger.advance(at("ratings", 0, 1))
    assert (held[TopicPartition("ratings", 0)], ledger.offsets[TopicPartition("ratings", 0)]) == (1, 2)


# The journal rebuilds the state.


def learn_from(folder: Path, source: Source, *, max_records: int) -> None:
    store = RocksStore(folder)
    chosen = settings(max_records=max_records)
    memory = Memory(learners(chosen), chosen, store)
    engine = Engine(source, memory, NullObserver(), max_records=max_records, commit_interval_s=3600.0)
    idle = 0
    while idle < 3 or (isinstance(source, JournalSource) and not source.finished):
        idle = 0 if engine.step(0.0) else idle + 1
        if engine._uncommitted > 200:
            engine.commit()
    engine.commit()
    store.close()


@pytest.mark.parametrize("max_records", [1, 7, 1000])
def test_replaying_the_journal_rebuilds_the_state_byte_for_byte(tmp_path: Path, max_records: int) -> None:
    """From a source that returns the partitions in another order."""
    partitions = partitioned(900)
    learn_from(tmp_path / "first", Shuffled(partitions, seed=1), max_records=50)
    learn_from(tmp_path / "other", Shuffled(partitions, seed=2), max_records=50)
    store = RocksStore(tmp_path / "first", read_only=True)
    runs = journal(store)
    store.close()
    assert len(runs) > 20
    learn_from(tmp_path / "again", JournalSource(Shuffled(partitions, seed=3), runs), max_records=max_records)
    wanted = digest(tmp_path / "first")
    assert digest(tmp_path / "again") == wanted
    assert digest(tmp_path / "other").digest != wanted.digest  # the order does matter, or this shows nothing
    assert digest(tmp_path / "other").offsets == wanted.offsets


def test_runs_after_offsets_are_the_rest_of_the_journal_in_order() -> None:
    """Notes are not runs, and a run that was learned in part begins where that part ended."""
    entries = at("ratings", 0, 0, 1, 2, 3) + at("ratings", 1, 0, 1)
    runs = [Run("ratings", 0, 0, 2), Run("ratings", 1, 0, 2), note(TABLES_REPLACED, "g1"), Run("ratings", 0, 2, 4)]
    learned = {TopicPartition("ratings", 0): 1, TopicPartition("ratings", 1): 1}
    left = runs_after(runs, learned)
    assert left == [Run("ratings", 0, 1, 2), Run("ratings", 1, 1, 2), Run("ratings", 0, 2, 4)]
    source = JournalSource(MemorySource(entries), left)
    source.seek(learned)
    found: list[tuple[int, int]] = []
    while not source.finished:
        found += [(record.partition, record.offset) for record in source.poll(10, 0.0)]
    assert found == [(0, 1), (1, 1), (0, 2), (0, 3)]
    assert source.poll(10, 0.0) == []
    assert runs_after(runs, {TopicPartition("ratings", 0): 4, TopicPartition("ratings", 1): 2}) == []


@pytest.mark.parametrize("runs", [5, 300, 1000])
def test_only_the_end_of_a_long_journal_is_read(tmp_path: Path, runs: int) -> None:
    """For any offsets the remaining runs are the same as those found in the whole journal."""
    store, ledger = RocksStore(tmp_path), Ledger()
    assert newest_runs(store, {}) == []
    seen = [dict(ledger.offsets)]
    for n in range(runs):
        ledger.advance(at("ratings", n % 3, 2 * n, 2 * n + 1))
        if n % 50 == 7:
            ledger.add_note(note(WENT_LIVE, "g1"))
        seen.append(dict(ledger.offsets))
    commit(ledger, store)
    every = journal(store)
    for offsets in (seen[0], seen[1], seen[runs // 2], seen[-3], seen[-1]):
        assert runs_after(newest_runs(store, offsets), offsets) == runs_after(every, offsets)
    assert len(newest_runs(store, seen[-3])) <= 4
    assert newest_runs(store, seen[-1]) == []
    assert newest_runs(store, {}) == every
    store.close()


def test_notes_stay_separate_from_runs_across_restarts(tmp_path: Path) -> None:
    """A note is never extended to a run, nor a run across a note, also after restarts."""
    store = RocksStore(tmp_path)
    for noted in (note(TABLES_REPLACED, "g1"), note(WENT_LIVE, "g1")):
        ledger = Ledger()
        ledger.start(store.offsets())
        ledger.restore(store)
        ledger.advance(at("ratings", 0, *range(len(ledger.offsets), 3)))
        ledger.add_note(noted)
        commit(ledger, store)
    ledger = Ledger()
    ledger.start(store.offsets())
    ledger.restore(store)
    ledger.advance(at("ratings", 0, 3))
    commit(ledger, store)
    runs = journal(store)
    store.close()
    assert lineage(runs) == [
        ("g0", [Run("ratings", 0, 0, 3)]), ("g1", [Run("ratings", 0, 1, 3), Run("ratings", 0, 3, 4)])
    ]  # fmt: skip


def test_records_after_the_journal_are_not_read() -> None:
    entries = at("ratings", 0, 0, 1, 2, 3) + at("ratings", 1, 0, 1)
    source = JournalSource(MemorySource(entries), [Run("ratings", 1, 0, 1), Run("ratings", 0, 0, 3)])
    source.seek({})
    found: list[tuple[int, int]] = []
    while not source.finished:
        found += [(record.partition, record.offset) for record in source.poll(2, 0.0)]
    assert found == [(1, 0), (0, 0), (0, 1), (0, 2)]
