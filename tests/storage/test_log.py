"""The embedded log: acknowledged records are there, once, in order, for as long as the retention says."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.core.errors import BadState, SourceLost, StoreUnavailable
from streamer.core.events import LOG, Message, Record
from streamer.core.settings import StateSettings
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.runs import RUN_RECORDS


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    opened = EmbeddedLog(tmp_path)
    yield opened
    opened.close()


def messages(*names: str, timestamp_ms: int | None = None) -> list[Message]:
    return [Message("ratings", b"u", name.encode(), timestamp_ms) for name in names]


def numbered(count: int, bulk: int = 0) -> list[Message]:
    return [Message("clicks", None, b"%d " % n + os.urandom(bulk)) for n in range(count)]


def source(log: EmbeddedLog, offset: int = 0) -> LogSource:
    made = LogSource(log)
    made.seek({LOG: offset})
    return made


def drained(log: EmbeddedLog, offset: int = 0, max_records: int = 1000) -> list[Record]:
    reader, found = source(log, offset), list[Record]()
    while part := reader.poll(max_records, 0.0):
        assert len(part) <= max_records
        found.extend(part)
    return found


def test_records_are_read_as_they_were_published(log: EmbeddedLog) -> None:
    assert log.publish([Message("ratings", b"u", b"a", 7), Message("items", b"i", None, 8)]) == {LOG: 2}
    assert log.publish([Message("clicks", None, b"\0\xff", 9)]) == {LOG: 3}
    assert drained(log) == [
        Record("ratings", -1, 0, 7, b"u", b"a"),
        Record("items", -1, 1, 8, b"i", None),
        Record("clicks", -1, 2, 9, None, b"\0\xff"),
    ]


def test_publishing_no_messages_is_acknowledged(log: EmbeddedLog) -> None:
    assert log.publish([]) == {LOG: 0}
    log.publish(messages("a"))
    assert log.publish([]) == {LOG: 1}
    assert [record.offset for record in drained(log)] == [0]


@pytest.mark.parametrize("max_records", [1, 7, 499, 501, 2000])
@pytest.mark.parametrize("offset", [0, 1, 499, 500, 501, 999, 1100, 1102, 1103])
def test_reading_goes_on_from_any_offset_across_runs(log: EmbeddedLog, offset: int, max_records: int) -> None:
    log.publish(numbered(RUN_RECORDS * 2 + 100))
    log.publish(messages("a", "b"))
    log.publish(messages("c"))
    assert [record.offset for record in drained(log, offset, max_records)] == list(range(offset, 1103))


def test_records_published_during_a_read_come_next(log: EmbeddedLog) -> None:
    reader = source(log)
    assert reader.poll(10, 0.0) == []
    found = []
    for n in range(30):
        log.publish(messages(f"a{n}", f"b{n}", f"c{n}"))
        found += [record.value for record in reader.poll(2, 0.0)]
    assert reader.lag() == {"log": {0: 30}}
    while part := reader.poll(7, 0.0):
        found += [record.value for record in part]
    assert found == [f"{name}{n}".encode() for n in range(30) for name in "abc"]
    assert reader.lag() == {"log": {0: 0}}


def test_a_reader_that_waits_is_woken_by_a_publisher(log: EmbeddedLog) -> None:
    reader, found = source(log), list[Record]()
    waiting = threading.Thread(target=lambda: found.extend(reader.poll(10, 60.0)))
    waiting.start()
    log.publish(messages("a"))
    waiting.join(30.0)
    assert [record.value for record in found] == [b"a"]


def test_a_reopened_log_continues_at_its_end(tmp_path: Path) -> None:
    for n in range(4):
        log = EmbeddedLog(tmp_path)
        assert log.end == n * 600
        log.publish(numbered(600))
        log.close()
        log.close()
    log = EmbeddedLog(tmp_path)
    assert [record.offset for record in drained(log)] == list(range(2400))
    log.close()


def test_concurrent_publishers_lose_and_reorder_nothing(log: EmbeddedLog) -> None:
    ends = dict[tuple[int, int], int]()

    def publisher(name: int) -> None:
        for n in range(40):
            batch = [Message("ratings", b"u", f"{name} {n} {k}".encode()) for k in range(1 + n % 3)]
            ends[name, n] = log.publish(batch)[LOG]

    threads = [threading.Thread(target=publisher, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = drained(log)
    assert [record.offset for record in found] == list(range(8 * sum(1 + n % 3 for n in range(40))))
    values = [(record.value or b"").decode() for record in found]
    assert len(set(values)) == len(values)
    for (name, n), end in ends.items():  # each batch together, ending at the offset that its publisher got
        count = 1 + n % 3
        assert values[end - count : end] == [f"{name} {n} {k}" for k in range(count)]
    for name in range(8):
        mine = [ends[name, n] for n in range(40)]
        assert mine == sorted(mine)


def test_a_record_is_durable_before_it_is_read_or_acknowledged(log: EmbeddedLog) -> None:
    live: Any = log
    write, seen = live._rocks.write, []

    def record_write(rows: list[tuple[bytes, bytes]], *, sync: bool = False) -> None:
        write(rows, sync=sync)
        seen.append((sync, log.end))

    live._rocks.write = record_write
    assert log.publish(messages("a", "b")) == {LOG: 2}
    assert seen == [(True, 0)]  # one write with an fsync, after which the log still ended where it did
    assert log.end == 2


def test_concurrent_publishers_share_an_fsync(log: EmbeddedLog) -> None:
    writes, entered, go_on = list[int](), threading.Event(), threading.Event()
    live: Any = log
    write = live._write

    def counted(entries: list[object]) -> None:
        writes.append(len(entries))
        entered.set()
        assert go_on.wait(60.0)
        write(entries)

    live._write = counted
    threads = [threading.Thread(target=log.publish, args=(messages("a"),)) for _ in range(20)]
    threads[0].start()
    assert entered.wait(60.0)
    for thread in threads[1:]:
        thread.start()
    while len(log._waiting) < 19:
        entered.wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join()
    assert writes == [1, 19]
    assert len(drained(log)) == 20


def test_a_message_that_cannot_be_stored_fails_only_its_own_publisher(log: EmbeddedLog) -> None:
    """Once it lost the others' events too, and acknowledged them as stored."""
    entered, go_on = threading.Event(), threading.Event()
    live: Any = log
    write, answers = live._write, dict[str, Any]()

    def held(entries: list[object]) -> None:
        entered.set()
        assert go_on.wait(60.0)
        write(entries)

    live._write = held

    def publisher(name: str, batch: list[Message]) -> None:
        try:
            answers[name] = log.publish(batch)
        except UnicodeEncodeError as error:
            answers[name] = error

    first = threading.Thread(target=publisher, args=("first", messages("a")))
    first.start()
    assert entered.wait(60.0)
    batches = {"good": messages("b", "c"), "bad": [Message("\ud800", None, b"d")], "good too": messages("e")}
    threads = [threading.Thread(target=publisher, args=pair) for pair in batches.items()]
    for thread in threads:
        thread.start()
    while len(log._waiting) < 3:
        entered.wait(0.001)
    go_on.set()
    for thread in [first, *threads]:
        thread.join()
    assert isinstance(answers.pop("bad"), UnicodeEncodeError)
    assert set(answers) == {"first", "good", "good too"}
    assert sorted(record.value or b"" for record in drained(log)) == [b"a", b"b", b"c", b"e"]
    assert max(end for answer in answers.values() for end in answer.values()) == log.end == 4


def test_the_next_row_of_a_replay_is_in_the_same_write(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    assert log.next_replay_row("abc") == 0
    log.append(messages("a", "b"), ("abc", 2))
    with pytest.raises(UnicodeEncodeError):
        log.append([Message("\ud800", None, b"c")], ("abc", 3))
    assert (log.next_replay_row("abc"), log.next_replay_row("abd"), log.end) == (2, 0, 2)
    log.close()
    log = EmbeddedLog(tmp_path)
    assert (log.next_replay_row("abc"), log.end) == (2, 2)
    log.close()


@pytest.mark.parametrize("offset", [-1, 3, 10**9])
def test_a_state_that_does_not_belong_to_the_log_is_refused(log: EmbeddedLog, offset: int) -> None:
    log.publish(messages("a", "b"))
    with pytest.raises(SourceLost, match=f"up to offset {offset}, the log holds 0 to 2: they do not belong together"):
        source(log, offset)


def test_a_gap_in_the_log_is_reported_before_later_records_are_read(log: EmbeddedLog) -> None:
    for name in "abcdef":
        log.publish(messages(name))
    log._rocks.delete_range(b"r" + (2).to_bytes(8, "big"), b"r" + (4).to_bytes(8, "big"))
    reader = source(log)
    with pytest.raises(BadState, match="the records from offset 2 to 3 are missing"):
        reader.poll(10, 0.0)


# Retention.


def runs(log: EmbeddedLog, count: int, *, bulk: int = 0, first_ms: int = 0) -> None:
    """`count` runs of ten records, a second apart."""
    for n in range(count):
        log.publish([Message("ratings", b"u", os.urandom(bulk), first_ms + 1000 * n) for _ in range(10)])


def test_trimming_deletes_old_runs_and_keeps_newer_ones(log: EmbeddedLog) -> None:
    runs(log, 10)
    log.trim(100, None, older_than_ms=4000)
    assert (log.begin(), log.end) == (40, 100)
    assert [record.offset for record in drained(log, 40)] == list(range(40, 100))
    with pytest.raises(SourceLost, match="the log holds 40 to 100"):
        source(log, 39)


def test_trimming_keeps_uncommitted_records(log: EmbeddedLog) -> None:
    runs(log, 10)
    for covered, begin in [(0, 0), (9, 0), (10, 10), (25, 20), (29, 20)]:
        log.trim(covered, 1, older_than_ms=10**6)
        assert log.begin() == begin


def test_trimming_always_keeps_the_newest_run(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    runs(log, 10)
    log.trim(100, 1, older_than_ms=10**6)
    assert log.begin() == 90
    log.close()
    log = EmbeddedLog(tmp_path)
    assert (log.begin(), log.end) == (90, 100)
    log.trim(100, 1, older_than_ms=10**6)
    assert (log.begin(), log.end) == (90, 100)
    log.close()


def test_repeated_trimming_keeps_as_much_as_the_retention_says(log: EmbeddedLog) -> None:
    """Once trimmed runs stayed on disk, so each call trimmed as much again, down to the last run."""
    runs(log, 1000, bulk=1000)
    for _ in range(4):
        log.trim(10_000, 4_000_000, None)
        assert 3_900_000 < log.size_bytes < 4_100_000
        assert 5900 < log.begin() < 6200
    assert [record.offset for record in drained(log, 7000)] == list(range(7000, 10_000))


def test_retention_is_applied_once_a_minute_and_only_if_set(log: EmbeddedLog) -> None:
    secured = list[int]()
    runs(log, 10)
    log.apply_retention(StateSettings(), {LOG: 100}, lambda: secured.append(log.begin()))
    assert (secured, log.begin()) == ([], 0)
    for _ in range(3):
        log.apply_retention(StateSettings(log_retention_days=1.0), {LOG: 55}, lambda: secured.append(log.begin()))
    assert (secured, log.begin()) == ([0], 50)  # the commit was made to last before anything went


def test_nothing_is_trimmed_when_the_commit_cannot_be_synced(log: EmbeddedLog) -> None:
    runs(log, 10)

    def full() -> None:
        raise StoreUnavailable("no space left")

    log.apply_retention(StateSettings(log_retention_days=1.0), {LOG: 55}, full)
    assert log.begin() == 0
