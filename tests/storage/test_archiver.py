"""The thread that fills the archive: it falls behind, is killed, and neither loses nor repeats an event."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from archiving import LEARNING, archived, holds, logged, table
from broker import Broker
from commands import run
from learning import events as stream_of
from learning import settings
from process import streamer

from streamer.consumers.memory import MemorySource
from streamer.core.errors import StreamerError
from streamer.core.events import LOG, Click, ItemUpdate, Offsets, Rating, Record, UserRemoval, message
from streamer.producers.kafka import KafkaSink
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.archiver import Archiver
from streamer.storage.log import EmbeddedLog, LogSource

DEADLINE_S = 60.0


def expected_of(folder: Path, **flags: Any) -> list[tuple[str, int]]:
    """Topic and offset of the accepted records in the log of `folder`, archived in one piece."""
    log = EmbeddedLog(folder)
    try:
        records = [record for run_of in log.read(0) for record in run_of]
    finally:
        log.close()
    archived(folder / "expected", records, **flags).purge()
    return [(row["topic"], row["offset"]) for row in table(folder / "expected")]


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_kills_neither_lose_nor_repeat_archived_events(tmp_path: Path, kills: int) -> None:
    chance = random.Random(kills)
    path = tmp_path / "events.jsonl"
    with path.open("wb") as out:
        for event in stream_of(kills * 6000):
            if isinstance(event, bytes):
                out.write(event + b"\n")
            elif not isinstance(event, UserRemoval):
                out.write(msgspec.json.encode(event) + b"\n")
    data, landed, before = tmp_path / "d", 0, 0
    arguments = ("--replay", path, "--archive-interval-s", "0.05")
    for _ in range(kills):
        with streamer(data, *arguments, "--rate", "1500") as process:
            process.wait_for("streamer_archive_events", before + chance.randrange(200, 1500))
            process.pause(chance.uniform(0.0, 0.1))
            process.kill()
        reached = Archive(data).offsets[LOG]
        log = EmbeddedLog(data)
        landed += before < reached < log.end
        before = Archive(data).rows
        log.close()
    assert landed >= 0.6 * kills, f"only {landed} of {kills} kills landed while something was still to be archived"
    run("serve", "--data", data, "--port", "0", *arguments, "--until-drained")
    found = [(row["topic"], row["offset"]) for row in table(data)]
    assert found == expected_of(data)
    offsets = Archive(data).offsets
    assert offsets[LOG] == path.read_bytes().count(b"\n")


@contextmanager
def archiving(folder: Path, **flags: Any) -> Iterator[tuple[EmbeddedLog, Archiver]]:
    log = EmbeddedLog(folder)
    archiver = Archiver(folder, settings(**flags), LogSource(log), log)
    archiver.start()
    try:
        yield log, archiver
    finally:
        archiver.close()
        log.close()


def test_wait_for_returns_whether_the_offsets_are_archived(tmp_path: Path) -> None:
    with archiving(tmp_path, archive_interval_s=3600) as (log, archiver):
        end = log.publish([message(Rating("u", f"i{n}", 1.0, n)) for n in range(30)])
        assert archiver.wait_for(end, DEADLINE_S)
        assert len(Archive(tmp_path).events(LEARNING, end)) == 30
        assert not archiver.wait_for({LOG: 31}, 0.2)
        assert archiver.lag() == 0


def test_a_restarted_archiver_knows_the_event_ids_archived_before(tmp_path: Path) -> None:
    for event_id in ("e1", "e2"):
        with archiving(tmp_path, archive_interval_s=3600) as (log, archiver):
            end = log.publish([message(Rating("u", "i", 1.0, 1, one)) for one in ("e1", event_id)])
            assert archiver.wait_for(end, DEADLINE_S)
    assert [row["event_id"] for row in table(tmp_path)] == ["e1", "e2"]


def test_events_are_archived_periodically_and_at_the_end(tmp_path: Path) -> None:
    with archiving(tmp_path, archive_interval_s=0.05) as (log, archiver):
        log.publish([message(Rating("u", "i", 1.0, 1))])
        deadline = time.monotonic() + DEADLINE_S
        while not archiver.archive.rows:
            assert time.monotonic() < deadline
            archiver.wait_for({LOG: 2}, 0.01)
    with archiving(tmp_path, archive_interval_s=3600) as (log, archiver):
        archiver.flush(DEADLINE_S)
        log.publish([message(Rating("u", "i", 1.0, 1))])
    assert Archive(tmp_path).rows == 2


def test_forgetting_in_a_running_archive_includes_events_still_in_the_log(tmp_path: Path) -> None:
    rated = [message(Rating(who, "i", 1.0, 1)) for who in ("secret", "other")]
    with archiving(tmp_path, archive_interval_s=3600) as (log, archiver):
        assert archiver.wait_for(log.publish(rated), DEADLINE_S)
        assert holds(tmp_path, b"secret")
        assert archiver.wait_for(log.publish([*rated, message(UserRemoval("secret"))]), DEADLINE_S)
        archiver.archive.purge()
        assert holds(tmp_path, b"secret") == []
        assert [row["user_id"] for row in table(tmp_path)] == ["other", "other"]


def test_a_log_trimmed_while_archiving_was_off_is_archived_from_its_beginning(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    for n in range(4):
        log.publish([message(Rating("u", f"i{n}", 1.0, n))])
    log.trim(2, None, 2**60)
    begin = log.begin()
    log.close()
    assert begin > 0
    with archiving(tmp_path) as (log, archiver):
        assert archiver.wait_for({LOG: 4}, DEADLINE_S)
    assert [row["offset"] for row in table(tmp_path)] == list(range(begin, 4))


def test_the_log_is_not_trimmed_beyond_the_archive(tmp_path: Path) -> None:
    archiver = Archiver(tmp_path, settings(), MemorySource([]))
    assert archiver.clamp_to_archived({LOG: 9}) == {LOG: 0}
    archived(tmp_path, logged([Rating("u", "i", 1.0, 1)] * 5))
    archiver = Archiver(tmp_path, settings(), MemorySource([]))
    assert archiver.clamp_to_archived({LOG: 9}) == {LOG: 5}
    assert archiver.clamp_to_archived({LOG: 3}) == {LOG: 3}


def test_retention_keeps_records_that_are_not_archived(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n" + "".join(f"u{n % 9},i{n % 23},{1 + n % 5}\n" for n in range(20_000)))
    arguments = ("--replay", path, "--rate", "3000", "--log-retention-days", "0.000001", "--archive-interval-s", "3600")
    with streamer(tmp_path / "d", *arguments) as process:
        process.wait_for("streamer_commit_seconds_count", 2)  # it looks at the first commit, and a minute later
        process.kill()
    log = EmbeddedLog(tmp_path / "d")
    begin, end = log.begin(), log.end
    log.close()
    assert begin <= Archive(tmp_path / "d").offsets.get(LOG, 0) < end


def test_no_archive_is_written_when_it_is_off(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\nu,i,3\n")
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained", "--no-archive")
    assert not (tmp_path / "d/archive").exists()


def test_waiting_for_an_archive_that_has_failed_raises(tmp_path: Path) -> None:
    archived(tmp_path, logged([Rating("u", "i", 1.0, 1)] * 5))  # of another log than the empty one here
    with archiving(tmp_path) as (_, archiver):
        with pytest.raises(
            StreamerError, match=r"archiving has ended: .* do not belong together.*; or move .*archive away"
        ):
            archiver.wait_for({LOG: 6}, DEADLINE_S)
        assert archiver.clamp_to_archived({LOG: 9}) == {LOG: 5}


@pytest.mark.kafka
def test_kills_neither_lose_nor_repeat_events_archived_from_kafka(fresh_broker: Broker, tmp_path: Path) -> None:
    sink = KafkaSink(settings(kafka=fresh_broker.bootstrap).kafka)
    rated = [Rating(f"u{n % 37}", f"i{n % 91}", 1.0 + n % 5, 1_700_000_000_000 + n, f"e{n}") for n in range(4000)]  # fmt: skip
    arguments = ("--kafka", fresh_broker.bootstrap, "--archive-interval-s", "0.05")
    with streamer(tmp_path / "d", *arguments) as process:
        process.wait_for("streamer_ingestion_up", 1)
        sink.publish([message(event) for event in rated[:2000]])
        process.wait_for("streamer_archive_events", 100)
        process.kill()
    sink.publish([message(event) for event in [*rated[2000:], *rated[1990:2010]]])  # some of them twice
    sink.publish([message(Click("u1", "i1")), message(ItemUpdate("i1", "One"))])
    sink.close()
    with streamer(tmp_path / "d", *arguments) as process:
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 4000)
        process.wait_for('streamer_events_total{outcome="duplicate",topic="ratings"}', 20)
        process.wait_for("streamer_archive_events", 4002)
        status: Any = process.call("AdminService/GetStatus")["archive"]
        assert (int(status["records"]), int(status["behind"]), status["trouble"]) == (4002, 0, "")
        assert int(status["bytes"]) > 10_000
        assert process.stop() == 0
    found = table(tmp_path / "d")
    assert sorted(row["event_id"] for row in found if row["topic"] == "ratings") == sorted(e.event_id or "" for e in rated)  # fmt: skip
    assert [row["topic"] for row in found if row["topic"] != "ratings"] == ["clicks", "items"]
    assert len(Archive(tmp_path / "d").events(LEARNING, None)) == 4001


class Named(MemorySource):
    """A source whose topic has an id."""

    def __init__(self, topic_id: str) -> None:
        super().__init__([])
        self.ids = {"ratings": topic_id}

    def topic_ids(self) -> dict[str, str]:
        return self.ids


def test_ids_of_topics_are_noted_and_a_topic_made_anew_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for topic_id in ("first", "first", "second"):
        archiver = Archiver(tmp_path, settings(), Named(topic_id))
        archiver.start()
        try:
            assert archiver.flush(DEADLINE_S)
        finally:
            archiver.close()
        assert Archive(tmp_path).manifest.topics["ratings"].id == topic_id
    (said,) = [record.getMessage() for record in caplog.records]
    assert "the topic 'ratings' was deleted and made anew since it was archived" in said


class Steady:
    """A source that always has one more record."""

    def __init__(self) -> None:
        self.next = 0

    def seek(self, offsets: Offsets) -> None: ...

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        threading.Event().wait(0.001)
        sent = message(Rating("u", f"i{self.next % 50}", 3.0, 1))
        self.next += 1
        return [Record(sent.topic, -1, self.next - 1, 1, sent.key, sent.value)]

    def lag(self) -> dict[str, dict[int, int]]:
        return {"log": {0: 1}}

    def close(self) -> None: ...


def test_a_flush_ends_while_events_keep_arriving(tmp_path: Path) -> None:
    """A retraining waits until the archive has reached its cut, while events keep arriving."""
    archiver = Archiver(tmp_path, settings(archive_interval_s=3600.0), Steady())
    archiver.start()
    try:
        assert archiver.wait_for({LOG: 20}, DEADLINE_S)
        assert archiver.wait_for({LOG: archiver.offsets[LOG] + 20}, DEADLINE_S)
    finally:
        archiver.close()
    assert [row["offset"] for row in table(tmp_path)] == list(range(Archive(tmp_path).offsets[LOG]))
