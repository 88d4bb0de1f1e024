"""The archive: exactly the accepted events, once, in order, as Parquet for any tool, and without forgotten users."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from broker import Broker
from commands import run
from learning import events as stream_of
from learning import learn, settings
from learning import records as records_of
from process import streamer

from streamer.consumers.files import read
from streamer.consumers.memory import MemorySource
from streamer.core.batch import CLICK, RATING, Batch, Events
from streamer.core.errors import BadState, StreamerError
from streamer.core.events import (
    LOG,
    Click,
    Event,
    ItemRemoval,
    ItemUpdate,
    Message,
    Offsets,
    Rating,
    Record,
    TopicPartition,
    UserRemoval,
    UserUpdate,
    message,
)
from streamer.core.seed import event_keys, sequence_key
from streamer.producers.kafka import KafkaSink
from streamer.storage.archive import parquet
from streamer.storage.archive.archive import MERGED_FILES, Archive
from streamer.storage.archive.archiver import Archiver
from streamer.storage.archive.manifest import MANIFEST, read_manifest
from streamer.storage.archive.rows import Rows
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.stream.engine import Engine

DAY_MS = 86_400_000
AT_MS = 1_700_006_400_000  # 2023-11-15, at midnight
DEADLINE_S = 60.0


def logged(events: Sequence[Event | bytes], start: int = 0, at_ms: int = AT_MS) -> list[Record]:
    """The records as the embedded log has them, all appended on one day."""
    made = []
    for n, event in enumerate(events, start):
        sent = Message("ratings", b"u", event) if isinstance(event, bytes) else message(event)
        made.append(Record(sent.topic, -1, n, at_ms + n, sent.key, sent.value))
    return made


def archived(folder: Path, records: Sequence[Record], *, cut: int = 10**9, **flags: Any) -> Archive:
    """Archive `records` in commits of `cut` records each, continuing where the archive ends."""
    archive = Archive(folder)
    archive.open()
    rows = Rows(settings(**flags))
    rows.remember(archive.newest_event_ids(settings(**flags).state.dedupe_events))
    for start in range(0, len(records), cut):
        part = records[start : start + cut]
        rows.add(part)
        archive.commit(rows.by_topic(), ends(part), rows.forgotten)
        rows.clear()
    return archive


def ends(records: Sequence[Record]) -> Offsets:
    found: dict[TopicPartition, int] = {}
    for record in records:
        at = LOG if record.partition < 0 else TopicPartition(record.topic, record.partition)
        found[at] = record.offset + 1
    return found


def rows_of(events: Events) -> list[tuple[str, str, int, float, int]]:
    return [
        (events.user_ids[u], events.item_ids[i], int(kind), float(value), int(time_ms))
        for u, i, kind, value, time_ms in zip(
            events.users, events.items, events.kinds, events.values, events.times_ms, strict=True
        )
    ]


def table(folder: Path) -> list[dict[str, Any]]:
    """What another tool reads: all files below the folder, by plain pyarrow."""
    found = ds.dataset(folder / "archive", format="parquet", partitioning="hive").to_table().to_pylist()
    return sorted(found, key=lambda row: (row["topic"], row["partition"], row["offset"]))


def same(left: Events, right: Events) -> bool:
    return rows_of(left) == rows_of(right) and left.keys.tolist() == right.keys.tolist()


LEARNING = settings().learning


def test_any_parquet_tool_reads_all_accepted_events(tmp_path: Path) -> None:
    archived(
        tmp_path,
        logged(
            [
                ItemUpdate("i1", "One", ("Drama",)),
                Rating("u1", "i1", 4.5, AT_MS - 5, "e1"),
                b'{"user_id": "u1"',
                Click("u2", "i1", "purchase", None, None, "s1", "r1"),
                ItemRemoval("i1"),
                b'{"user_id":"u3","item_id":"i1","rating":2,"expected":2.25}',
                UserUpdate("u2", {"age": 30.0}),
            ]
        ),
    )
    found = table(tmp_path)
    assert {(row["topic"], row["day"]) for row in found} == {(t, "2023-11-15") for t in ("ratings", "clicks", "items", "users")}  # fmt: skip
    click, one, removed, first, second, user = found
    assert click["partition"] == -1
    assert [click[k] for k in ("offset", "user_id", "item_id", "kind", "timestamp_ms", "appended_ms", "session_id", "recommendation_id")] == [3, "u2", "i1", "purchase", AT_MS + 3, AT_MS + 3, "s1", "r1"]  # fmt: skip
    assert [first[k] for k in ("offset", "event_id", "rating", "timestamp_ms", "appended_ms", "expected")] == [1, "e1", 4.5, AT_MS - 5, AT_MS + 1, None]  # fmt: skip
    assert (second["rating"], second["expected"], second["event_id"]) == (2.0, 2.25, None)
    assert msgspec.json.decode(one["value"], type=ItemUpdate) == ItemUpdate("i1", "One", ("Drama",))
    assert (removed["item_id"], removed["value"]) == ("i1", None)
    assert user["user_id"] == "u2"
    compression = {pq.ParquetFile(path).metadata.row_group(0).column(1).compression for path in tmp_path.rglob("*.parquet")}  # fmt: skip
    assert compression == {"ZSTD"}


def test_a_file_is_durable_before_it_is_listed_and_the_list_before_it_counts(tmp_path: Path, synced: list[int]) -> None:
    archive = archived(tmp_path, logged([Rating("u1", "i1", 4.0)]))
    (file,) = tmp_path.rglob("*.parquet")
    listed = archive.folder / MANIFEST
    moments = [synced.index(path.stat().st_ino) for path in (file, file.parent, listed)]
    assert moments == sorted(moments)
    assert synced[-1] == archive.folder.stat().st_ino  # the new name of the list comes last


def test_events_are_read_in_the_order_in_which_they_were_learned(tmp_path: Path) -> None:
    records = logged([Rating("b", "y", 3.0, 70), Click("a", "x", "view", 50), Rating("a", "y", 1.0, 60)])
    archive = archived(tmp_path, records, cut=1)
    found = archive.events(LEARNING, None)
    assert rows_of(found) == [("b", "y", RATING, 3.0, 70), ("a", "x", CLICK, np.float32(0.2), 50), ("a", "y", RATING, 1.0, 60)]  # fmt: skip
    assert (found.user_ids, found.item_ids) == (["b", "a"], ["y", "x"])
    assert found.keys.tolist() == event_keys(sequence_key(LEARNING.seed, LOG), np.arange(3)).tolist()
    assert rows_of(archive.events(LEARNING, {LOG: 2})) == rows_of(found)[:2]
    assert len(archive.events(LEARNING, {})) == 0


def test_a_time_in_the_future_is_replaced_by_the_records_time(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, AT_MS + 2 * DAY_MS), Rating("u", "i", 1.0)]))
    assert archive.events(LEARNING, None).times_ms.tolist() == [AT_MS, AT_MS + 1]


def test_kafkas_partitions_are_merged_by_time_appended_each_in_its_own_order(tmp_path: Path) -> None:
    def rated(partition: int, offset: int, appended_ms: int) -> Record:
        sent = message(Rating(f"p{partition}", f"o{offset}", 1.0, 1))
        return Record("ratings", partition, offset, appended_ms, sent.key, sent.value)

    sent = message(Click("c", "i"))
    records = [
        *(rated(0, 0, 10), rated(0, 1, 40), rated(0, 2, 20)),  # its clock was set back
        *(rated(1, 0, 15), rated(1, 2, 40)),  # offsets have gaps
        Record("clicks", 0, 0, 40, sent.key, sent.value),
    ]
    archive = archived(tmp_path, records, cut=2)
    found = archive.events(LEARNING, None)
    names = [(found.user_ids[u], found.item_ids[i]) for u, i in zip(found.users, found.items, strict=True)]
    assert names == [("p0", "o0"), ("p1", "o0"), ("c", "i"), ("p0", "o1"), ("p0", "o2"), ("p1", "o2")]
    expected = event_keys(sequence_key(LEARNING.seed, TopicPartition("ratings", 1)), np.array([0, 2]))
    assert found.keys[[1, 5]].tolist() == expected.tolist()
    cut = {TopicPartition("ratings", 0): 2, TopicPartition("ratings", 1): 1}
    assert len(archive.events(LEARNING, cut)) == 3


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_an_event_id_is_archived_once_also_after_a_restart(tmp_path: Path, cut: int) -> None:
    rated = [Rating("u", f"i{n}", 1.0, n, f"e{n % 4}") for n in range(20)]
    archived(tmp_path, logged(rated[:10]), cut=cut)
    archived(tmp_path, logged(rated[10:], 10), cut=cut)
    assert [row["event_id"] for row in table(tmp_path)] == ["e0", "e1", "e2", "e3"]
    assert read_manifest(tmp_path / "archive").offsets == {"log/0": 20}


def test_only_as_many_event_ids_are_remembered_as_the_encoder_remembers(tmp_path: Path) -> None:
    archived(tmp_path, logged([Rating("u", "i", 1.0, n, f"e{n}") for n in range(6)]), cut=2, dedupe_events=3)
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, 9, f"e{n}") for n in (3, 2)], 6), dedupe_events=3)
    assert [row["offset"] for row in table(tmp_path)] == [0, 1, 2, 3, 4, 5, 7]
    assert archive.newest_event_ids(3) == {LOG: ["e4", "e5", "e2"]}


def test_archived_events_are_those_that_were_learned(tmp_path: Path) -> None:
    """Ids, kinds, values, times and random keys, event by event, without duplicates and bad events."""
    records = records_of([event for event in stream_of(1500) if not isinstance(event, UserRemoval)])
    seen: list[tuple[str, str, int, float, int, int]] = []

    def listening(engine: Engine) -> None:
        observe = engine.memory.monitor.observe
        users, items = engine.memory.users, engine.memory.items

        def observe_too(batch: Batch, predictions: Any) -> Any:
            item_of = {row: item_id for item_id, row in items.row_of.items()}
            user_of = {row: user_id for user_id, row in users.row_of.items()}
            for k in range(len(batch)):
                who = user_of[int(batch.users[k])], item_of[int(batch.items[k])]
                seen.append((*who, int(batch.kinds[k]), float(batch.values[k]), int(batch.times_ms[k]), int(batch.keys[k])))  # fmt: skip
            return observe(batch, predictions)

        engine.memory.monitor.observe = observe_too  # type: ignore[method-assign]  # who listens learns nothing

    learn(tmp_path / "state", records, alter=listening, rating_learner="bias", click_learner="popularity")
    found = archived(tmp_path, records, cut=70).events(LEARNING, None)
    assert [(*event, int(key)) for event, key in zip(rows_of(found), found.keys, strict=True)] == seen
    assert len(seen) > 1200


def test_merging_keeps_all_rows_and_leaves_few_files(tmp_path: Path) -> None:
    records = logged([Rating(f"u{n % 7}", f"i{n % 11}", 1.0 + n % 5, n) for n in range(40)])
    archive = archived(tmp_path, records, cut=2)
    before, rows = archive.events(LEARNING, None), table(tmp_path)
    assert len(list(tmp_path.rglob("*.parquet"))) == 20
    while archive.compact("2023-11-15"):  # today: files of a like size
        pass
    assert len(list(tmp_path.rglob("*.parquet"))) < MERGED_FILES
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, 99)], 40))
    assert not archive.compact("2023-11-15")
    before, rows = archive.events(LEARNING, None), table(tmp_path)
    while archive.compact("2023-11-16"):  # the day is over
        pass
    (only,) = tmp_path.rglob("*.parquet")
    assert archive.size_bytes == only.stat().st_size
    assert same(archive.events(LEARNING, None), before)
    assert table(tmp_path) == rows


def test_each_day_has_its_own_files_and_old_ones_are_deleted(tmp_path: Path) -> None:
    events: list[Event] = [ItemUpdate("i", "One"), Rating("u", "i", 1.0, 5)]
    archived(tmp_path, logged(events))
    archive = archived(tmp_path, logged(events, 2, AT_MS + DAY_MS))
    assert {row["day"] for row in table(tmp_path)} == {"2023-11-15", "2023-11-16"}
    archive.retain(AT_MS + DAY_MS)
    kept = [(row["topic"], row["day"]) for row in table(tmp_path)]
    assert kept == [("items", "2023-11-15"), ("items", "2023-11-16"), ("ratings", "2023-11-16")]  # the catalogue stays
    assert len(Archive(tmp_path).events(LEARNING, None)) == 1
    assert Archive(tmp_path).offsets == {LOG: 4}


def holds(folder: Path, text: bytes) -> list[Path]:
    """Files that contain these bytes, in the file itself or in a decoded column."""
    found = []
    for path in (folder / "archive").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += str(pq.ParquetFile(path).read().to_pydict()).encode()
            found += [path] if text in content else []
    return found


def test_forgetting_leaves_no_byte_of_the_user_or_an_alias(tmp_path: Path) -> None:
    events: list[Event] = [
        UserUpdate("secret-a", same_as="secret-b"),
        UserUpdate("secret-c", same_as="secret-b"),
        UserUpdate("other", {"age": 3.0}, same_as="somebody"),
        *(Rating(who, f"i{n}", 1.0, n) for n in range(5) for who in ("secret-a", "secret-b", "other")),
        *(Click(who, "i1") for who in ("secret-c", "other")),
    ]
    archive = archived(tmp_path, logged(events), cut=4)
    assert holds(tmp_path, b"secret")
    forgotten = archive.forget("secret-b")
    assert forgotten.user_ids == ["secret-b", "secret-a", "secret-c"]
    assert forgotten.rows == 13
    assert holds(tmp_path, b"secret") == []
    assert [row["user_id"] for row in table(tmp_path)] == ["other"] * 7
    assert archive.forget("secret-b").rows == 0
    assert holds(tmp_path, b"secret") == []
    assert same(Archive(tmp_path).events(LEARNING, None), archive.events(LEARNING, None))


def test_a_removal_erases_earlier_rows_and_no_later_ones(tmp_path: Path) -> None:
    events: list[Event] = [
        *(Rating("gone", "i1", 1.0, 1), Rating("stays", "i1", 2.0, 2), Rating("gone", "i2", 3.0, 3)),
        *(UserRemoval("gone"), Rating("gone", "i3", 4.0, 4)),
    ]
    for cut in (1, 2, 3, 4, 5):
        folder = tmp_path / str(cut)
        archive = archived(folder, logged(events), cut=cut)
        left = [("stays", "i1", RATING, 2.0, 2), ("gone", "i3", RATING, 4.0, 4)]
        assert rows_of(archive.events(LEARNING, None)) == left, "at once, for who reads it back"
        while archive.compact("2099-01-01"):
            pass
        assert rows_of(archive.events(LEARNING, None)) == left
        archive.purge()
        assert rows_of(archive.events(LEARNING, None)) == left
        assert [row["item_id"] for row in table(folder)] == ["i1", "i3"], "and in time in the files"
        assert read_manifest(folder / "archive").forgetting == {}


def test_unlisted_files_are_ignored_and_deleted_at_the_next_start(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, 1)]))
    (named,) = (tmp_path / "archive").rglob("*.parquet")
    rubbish = [named.with_name("00000009.parquet"), named.with_name(".00000010.tmp")]
    for path in rubbish:
        path.write_bytes(named.read_bytes())
    assert len(archive.events(LEARNING, None)) == 1
    Archive(tmp_path)
    assert all(path.exists() for path in rubbish), "who only reads removes nothing"
    Archive(tmp_path).open()
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file() and path != named] == [
        tmp_path / "archive/_archive.json"
    ]


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, 1)]))
    (file,) = (tmp_path / "archive").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadState, match=r"00000000\.parquet is damaged: .*restore a backup"):
        archive.events(LEARNING, None)
    file.unlink()
    with pytest.raises(BadState, match=r"00000000\.parquet is missing: restore a backup"):
        archive.events(LEARNING, None)
    (tmp_path / "archive/_archive.json").write_text('{"format": 2}')
    with pytest.raises(BadState, match="has format 2, this streamer writes format 1"):
        Archive(tmp_path)


@pytest.mark.parametrize("listed", [1, 3])
def test_a_file_with_other_rows_than_it_is_listed_with_is_refused(tmp_path: Path, listed: int) -> None:
    """Another file in its place, whole by itself."""
    archived(tmp_path, logged([Rating("u", "i", 1.0, 1), Rating("u", "j", 1.0, 2)]))
    manifest = tmp_path / "archive/_archive.json"
    manifest.write_text(manifest.read_text().replace('"rows":2', f'"rows":{listed}'))
    with pytest.raises(BadState, match=f"2 rows, not {listed}"):
        Archive(tmp_path).events(LEARNING, None)


def test_a_snapshot_does_not_change_with_the_archive(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", f"i{n}", 1.0, n) for n in range(20)]), cut=2)
    before = archive.events(LEARNING, None)
    archive.snapshot(tmp_path / "copy")
    while archive.compact("2099-01-01"):
        pass
    archive.forget("u")
    assert same(Archive(tmp_path / "copy").events(LEARNING, None), before)


def expected_of(folder: Path, **flags: Any) -> list[tuple[str, int]]:
    """Topic and offset of the accepted records in the log of `folder`, archived in one piece."""
    log = EmbeddedLog(folder)
    try:
        records = [record for run_of in log.read(0) for record in run_of]
    finally:
        log.close()
    archived(folder / "expected", records, **flags).purge()
    return [(row["topic"], row["offset"]) for row in table(folder / "expected")]


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.soak)])
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
    with archiving(tmp_path, archive_interval_s=3600) as (log, archiver):
        log.publish([message(Rating("secret", "i", 1.0, 1)), message(Rating("other", "i", 1.0, 1))])
        assert archiver.forget("secret", DEADLINE_S).rows == 1
        assert holds(tmp_path, b"secret") == []
        assert [row["user_id"] for row in table(tmp_path)] == ["other"]


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


def test_reading_the_archive_gives_the_published_events(tmp_path: Path) -> None:
    """The catalogue comes first; a forgotten user's events, duplicates and bad events are left out."""
    events = [
        *(Rating("u1", "i1", 4.0, AT_MS, "e1"), ItemUpdate("i1", "One"), Rating("u1", "i1", 4.0, AT_MS, "e1")),
        *(Click("u2", "i2", "cart", AT_MS, "e2", "s", "r"), UserUpdate("u2", {"age": 3.0}), Rating("u2", "i1", 0.1)),
        *(Rating("gone", "i1", 1.0), UserRemoval("gone"), ItemRemoval("i2"), b"{"),
        b'{"user_id":"u3","item_id":"i1","rating":2.5,"timestamp_ms":1700000000000,"expected":2.25}',
    ]
    records = logged(events)
    for cut in (1, 2, 100):
        archived(tmp_path / str(cut), records, cut=cut)
    streams = [read(tmp_path / f"{cut}/archive") for cut in (1, 2, 100)]
    for stream in streams:
        sent = stream.messages(0, len(stream))
        left = [records[n] for n in (1, 4, 8, 0, 3)] + [msgspec.structs.replace(records[10], key=b"u3")]
        assert [(s.topic, s.key, s.value) for s in sent if b'"u2","item_id":"i1"' not in (s.value or b"")] == [(r.topic, r.key, r.value) for r in left]  # fmt: skip
        assert sent[5] == message(Rating("u2", "i1", 0.1, AT_MS + 5)), "it has no time: the record's"
        assert [stream.messages(n, n + 1)[0] for n in range(len(sent))] == sent
        assert stream.times_ms(2, 5) == [AT_MS, AT_MS, AT_MS]
    assert len({stream.sha256 for stream in streams}) == 1


def test_evaluating_the_archive_equals_evaluating_the_original_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = [e for e in stream_of(600) if isinstance(e, Rating | Click | ItemUpdate)]
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in good if not getattr(e, "event_id", None)))
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")

    def scores(of: Path) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(run("evaluate", of, "--json"))
        return {name: value for name, value in found.items() if "second" not in name}

    assert scores(tmp_path / "d/archive") == scores(path)
    assert scores(path)["ratings"] > 100


def test_merging_holds_one_row_group_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 3)
    archive = archived(tmp_path, logged([Rating(f"u{n % 2}", f"i{n}", 1.0, n) for n in range(20)]), cut=10)
    while archive.compact("2099-01-01"):
        pass
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.ParquetFile(path).num_row_groups == 8
    assert archive.forget("u1").rows == 10
    assert [row["offset"] for row in table(tmp_path)] == list(range(0, 20, 2))


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
