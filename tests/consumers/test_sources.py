"""Every source passes the conformance checks, and every check catches a faulty source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from streamer.checks.sources import CHECKS, Subject, some_messages
from streamer.consumers import SOURCES
from streamer.consumers.files import FileSource
from streamer.consumers.memory import Abort, EndOfFile, Entry, MemorySink, MemorySource
from streamer.core.errors import SourceLost
from streamer.core.events import LOG, Message, Offsets, Record, TopicPartition
from streamer.core.protocols import Sink, Source
from streamer.producers import SINKS

Check = Callable[[Subject], None]


def memory(partitions: int) -> Subject:
    sink = MemorySink(partitions)
    return Subject(open=lambda: MemorySource(sink.records), publish=sink.publish)


def file(folder: Path) -> Subject:
    path = folder / "events.jsonl"

    def publish(messages: Sequence[Message]) -> None:
        path.write_bytes(b"".join((sent.value or b"null") + b"\n" for sent in messages))

    return Subject(open=lambda: FileSource(path), publish=publish, grows=False)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "files": file,
    "memory": lambda folder: memory(0),
    "memory, by partition": lambda folder: memory(3),
}
ELSEWHERE = {"kafka"}  # checked where its broker is


def test_every_source_of_the_registry_is_checked() -> None:
    assert set(SOURCES) <= set(SUBJECTS) | ELSEWHERE


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SUBJECTS)
def test_every_source_passes_all_checks(check: Check, name: str, tmp_path: Path) -> None:
    check(SUBJECTS[name](tmp_path))


def test_memory_and_files_fit_the_protocols(tmp_path: Path) -> None:
    file(tmp_path).publish(some_messages())
    assert isinstance(MemorySource([]), Source)
    assert isinstance(MemorySink(), Sink)
    assert isinstance(FileSource(tmp_path / "events.jsonl"), Source)


@pytest.mark.parametrize("registry", [SOURCES, SINKS], ids=["sources", "sinks"])
def test_every_line_of_the_registries_names_a_class(registry: dict[str, str]) -> None:
    for place in registry.values():
        module, _, name = place.partition(":")
        assert isinstance(getattr(import_module(module), name), type)


class Mutant:
    """A MemorySource with one fault."""

    def __init__(self, entries: Sequence[Entry], fault: str) -> None:
        self.inner, self.fault = MemorySource(entries), fault
        self.polls, self.closed = 0, False

    def seek(self, offsets: Offsets) -> None:
        match self.fault:
            case "seeks one too far":
                offsets = {sequence: offset + (offset > 0) for sequence, offset in offsets.items()}
            case "seeks one too near":
                offsets = {sequence: max(0, offset - 1) for sequence, offset in offsets.items()}
            case "skips what is not named" if offsets:
                ends = {TopicPartition(r.topic, r.partition): r.offset + 1 for r in self.inner.entries}  # type: ignore[union-attr]  # only records here
                offsets = {**ends, **offsets}
        try:
            self.inner.seek(offsets)
        except SourceLost:
            if self.fault not in ("rewinds when lost", "seeks one too far"):
                raise
            self.inner.seek({})

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        self.polls += 1
        more = 1 if self.fault == "gives more than asked" else 0
        records = list(self.inner.poll(max_records + more, timeout_s))
        match self.fault:
            case "gives None":
                return records or None  # type: ignore[return-value]  # the fault
            case "repeats a record" if self.polls == 2:
                return [*records[:1], *records][:max_records]
            case "drops a record" if self.polls == 1 and max_records > 1:
                return records[1:]
            case "swaps records":
                return records[::-1]
            case "loses the key":
                return [Record(r.topic, r.partition, r.offset, r.timestamp_ms, None, r.value) for r in records]
            case "stops growing" if self.polls > 2:
                return []
        return records

    def lag(self) -> Mapping[str, Mapping[int, int]]:
        lag = self.inner.lag()
        if self.fault == "lags for ever":
            return {topic: dict.fromkeys(partitions, 1) for topic, partitions in lag.items()}
        return lag

    def close(self) -> None:
        if self.closed and self.fault == "closes once":
            raise ValueError("closed already")
        self.closed = True


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("drops a record", "gives_each_record_once_as_it_was_published"),
        ("loses the key", "gives_each_record_once_as_it_was_published"),
        ("repeats a record", "gives_at_most_max_records"),
        ("gives more than asked", "gives_at_most_max_records"),
        ("swaps records", "keeps_the_order_of_each_key"),
        ("gives None", "is_empty_at_the_end_and_does_not_block"),
        ("seeks one too far", "resumes_exactly_from_any_offsets"),
        ("seeks one too near", "resumes_exactly_from_any_offsets"),
        ("skips what is not named", "starts_other_sequences_at_their_beginning"),
        ("rewinds when lost", "raises_source_lost_beyond_the_end"),
        ("lags for ever", "lag_counts_what_is_left"),
        ("closes once", "closes_twice"),
        ("stops growing", "hands_out_later_records"),
    ],
)
def test_each_check_catches_its_mutant(fault: str, check: str) -> None:
    sink = MemorySink(partitions=2)
    subject = Subject(open=lambda: Mutant(sink.records, fault), publish=sink.publish, arrival_s=0.05)
    by_name = {check.__name__: check for check in CHECKS}
    with pytest.raises((AssertionError, ValueError)):
        by_name[check](subject)
    healthy = replace(memory(2), arrival_s=0.05)
    by_name[check](healthy)


def test_a_poll_that_blocks_too_long_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.checks.sources.BLOCKED_S", -1.0)
    with pytest.raises(AssertionError, match="poll blocked"):
        {check.__name__: check for check in CHECKS}["is_empty_at_the_end_and_does_not_block"](memory(0))


def record(offset: int) -> Record:
    return Record("ratings", -1, offset, 0, b"u", b"%d" % offset)


def test_abort_is_raised_once_and_after_the_records_before_it() -> None:
    entries: list[Entry] = [record(0), record(1), Abort(), record(2)]
    source = MemorySource(entries)
    assert [r.offset for r in source.poll(10, 0)] == [0, 1]
    with pytest.raises(Abort):
        source.poll(10, 0)
    restarted = MemorySource(entries)
    restarted.seek({LOG: 1})  # only the first was committed
    assert [r.offset for r in restarted.poll(10, 0)] == [1, 2]


def test_end_of_file_ends_one_run_and_the_next_continues() -> None:
    entries: list[Entry] = [record(0), EndOfFile(), record(1)]
    source = MemorySource(entries)
    assert source.lag() == {"log": {0: 1}}
    assert [r.offset for r in source.poll(10, 0)] == [0]
    assert list(source.poll(10, 0)) == []
    assert source.lag() == {"log": {0: 0}}
    restarted = MemorySource(entries)
    restarted.seek({LOG: 1})
    assert [r.offset for r in restarted.poll(10, 0)] == [1]


def test_records_deleted_by_retention_are_reported_and_not_skipped() -> None:
    with pytest.raises(SourceLost, match=r"offset 3 of log/0, and there are 5 to 6"):
        MemorySource([record(5)]).seek({LOG: 3})


def test_a_memory_sink_numbers_each_partition_and_returns_next_offsets() -> None:
    sink = MemorySink(partitions=4, now_ms=lambda: 7)
    offsets = sink.publish([Message("ratings", b"u1", b"a"), Message("ratings", b"u1", b"b", 5)])
    (sequence,) = offsets
    assert offsets == {sequence: 2}
    assert [(r.offset, r.timestamp_ms) for r in sink.records] == [(0, 7), (1, 5)]
    assert MemorySink().publish([Message("items", b"i", None)]) == {LOG: 1}
