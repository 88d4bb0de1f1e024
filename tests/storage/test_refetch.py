"""Rows of Kafka's records fetched again: what is certain comes back, what is not stays away and is named by its offsets."""

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from archiving import AT_MS, DAY_MS, archived, table
from learning import settings

from streamer.core.errors import SourceUnavailable
from streamer.core.events import (
    TOPICS,
    Click,
    Event,
    ItemUpdate,
    Message,
    Rating,
    Record,
    UserRemoval,
    UserUpdate,
    message,
    sequence_of,
)
from streamer.core.events import TopicPartition as At
from streamer.core.protocols import Extent
from streamer.storage.archive.archive import QUARANTINE, Archive
from streamer.storage.archive.manifest import read_manifest
from streamer.storage.archive.repair import Repaired, repair
from streamer.stream.removals import Removal

PARTITIONS = 3


class Topics:
    """protocols.KeptRecords in memory: topics of which all have one id."""

    place = "Kafka"

    def __init__(self, records: Sequence[Record], topic_id: str = "a", begins: Mapping[At, int] | None = None) -> None:
        self.by_sequence: dict[At, list[Record]] = defaultdict(list)
        for record in records:
            self.by_sequence[sequence_of(record)].append(record)
        self.topic_id, self.begins = topic_id, begins or {}

    def extents(self, wanted: Collection[At]) -> dict[At, Extent]:
        there = {at: found for at in wanted if (found := self.by_sequence.get(at))}
        return {at: Extent(self.begins.get(at, 0), found[-1].offset + 1, self.topic_id) for at, found in there.items()}

    def between(self, at: At, first: int, stop: int) -> Iterator[list[Record]]:
        assert self.begins.get(at, 0) <= first <= stop
        found = [record for record in self.by_sequence[at] if first <= record.offset < stop]
        for start in range(0, len(found), 7):
            yield found[start : start + 7]


def partitioned(events: Sequence[Event | Message | bytes], at_ms: int = AT_MS, step_ms: int = 1) -> list[Record]:
    """The records as Kafka has them, appended `step_ms` after one another."""
    made, ends = [], defaultdict[At, int](int)
    for n, event in enumerate(events):
        sent = Message("ratings", b"u", event) if isinstance(event, bytes) else event
        sent = sent if isinstance(sent, Message) else message(sent)
        at = At(sent.topic, zlib.crc32(sent.key or b"") % PARTITIONS)
        made.append(Record(*at, ends[at], at_ms + n * step_ms, sent.key, sent.value))
        ends[at] += 1
    return made


def made(folder: Path, records: Sequence[Record], *, cut: int = 10**9, ids: bool = True) -> Archive:
    """An archive of these records, by this version or by one that noted no ids."""
    archive = Archive(folder)
    archive.open()
    if ids:
        assert archive.note_topics(dict.fromkeys(TOPICS, "a")) == []
    archived(folder, records, cut=cut).purge()
    return Archive(folder)


def harm(folder: Path, *topics: str) -> int:
    """Cut every file of these topics short; returns how many there were."""
    paths = [path for topic in topics for path in (folder / "archive").glob(f"topic={topic}/**/*.parquet")]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-9])
    return len(paths)


def repaired(folder: Path, kept: Topics, *removals: Removal) -> list[Repaired]:
    return repair(Archive(folder), settings(), kept, removals)


# Bad events, duplicates, the catalogue, a profile that names a removed user, a removal, and this user again.
MIXED: list[Event | bytes] = [
    *(ItemUpdate("i1", "One"), ItemUpdate("i2", "Two"), UserUpdate("friend", {"age": 3.0}, same_as="gone")),
    *(Rating(f"u{n % 7}", f"i{n % 5}", 1.0 + n % 5, AT_MS - n, f"e{n if n % 2 else n // 2}") for n in range(90)),
    *(Click("gone", f"i{n}") for n in range(5)),
    b"{",
    *(Click(f"u{n % 7}", f"i{n}", "cart") for n in range(40)),
    *(UserRemoval("gone"), Click("gone", "i9"), Rating("u1", "i2", 2.0)),
]


@pytest.mark.parametrize("ids", [True, False], ids=["ids noted", "from before ids were noted"])
@pytest.mark.parametrize("cut", [13, 1000])
def test_all_rows_come_back(tmp_path: Path, cut: int, ids: bool) -> None:
    records = partitioned(MIXED)
    made(tmp_path, records, cut=cut, ids=ids)
    before = table(tmp_path)
    assert harm(tmp_path, *TOPICS) >= 4
    done = repaired(tmp_path, Topics(records))
    assert [(one.topic, one.lost, one.why) for one in done] == [(topic, None, ()) for topic in sorted(TOPICS)]
    assert table(tmp_path) == before
    assert repaired(tmp_path, Topics(records)) == []
    assert "all 91 rows are back, from Kafka" not in done[0].sentence()
    assert f"all {done[0].rows} rows are back, from Kafka" in done[0].sentence()


def test_event_ids_of_before_the_damage_are_known(tmp_path: Path) -> None:
    again = Rating("u1", "i1", 3.0, AT_MS, "e1")
    others = [Rating("u1", f"i{n}", 2.0, AT_MS, f"f{n}") for n in range(20)]
    records = partitioned([again, *others[:10], again, *others[10:15], again, *others[15:]])
    made(tmp_path, records, cut=7)
    before = table(tmp_path)
    for path in sorted((tmp_path / "archive").rglob("*.parquet"))[1:]:
        path.unlink()
    assert [one.lost for one in repaired(tmp_path, Topics(records))] == [None]
    assert table(tmp_path) == before


def test_what_retention_deleted_is_named_by_offset(tmp_path: Path) -> None:
    """Not what is there and was no accepted event."""
    rated = [Rating(f"u{n}", "i", 2.0, AT_MS, f"f{n}") for n in range(60)]
    records = partitioned([*rated[:50], b"{", rated[49], rated[48], *rated[50:]])
    made(tmp_path, records, cut=25)
    before = table(tmp_path)
    begins = {At("ratings", 0): 4, At("ratings", 2): 11}
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics(records, begins=begins))
    assert done.lost
    assert (done.lost.rows, done.lost.offsets) == (15, {0: ((0, 3),), 2: ((0, 10),)})
    assert done.why == ("what is kept begins later: ratings/0 at 4, ratings/2 at 11",)
    assert "15 rows of topic=ratings" in done.sentence()
    assert "partition 0: 0 to 3; partition 2: 0 to 10" in done.sentence()
    assert table(tmp_path) == [row for row in before if row["offset"] >= begins.get(At("ratings", row["partition"]), 0)]
    assert len(list((tmp_path / "archive" / QUARANTINE).iterdir())) == 3
    assert read_manifest(tmp_path / "archive").lost == (done.lost,)


def test_what_was_compacted_away_is_named_by_offset(tmp_path: Path) -> None:
    bad = [Message("items", b"bad%d" % n, b"{") for n in range(5)]
    records = partitioned([*(ItemUpdate(f"i{n % 4}", f"Title {n}") for n in range(20)), *bad, ItemUpdate("i1", "Last")])
    made(tmp_path, records)
    before = table(tmp_path)
    newest = {record.key: record for record in records}
    harm(tmp_path, "items")
    (done,) = repaired(tmp_path, Topics([record for record in records if newest[record.key] is record]))
    left = [row for row in before if row["value"] in {(record.value or b"").decode() for record in newest.values()}]
    assert table(tmp_path) == left
    assert done.lost
    named = {(at, n) for at, runs in done.lost.offsets.items() for low, high in runs for n in range(low, high + 1)}
    assert named == {(row["partition"], row["offset"]) for row in before if row not in left}


@pytest.mark.parametrize(
    ("topic_id", "ids", "more", "why"),
    [
        ("b", True, 50, "the topic ratings at Kafka was deleted and made anew"),
        ("b", True, 0, "the topic ratings at Kafka was deleted and made anew"),
        ("", False, 0, "nothing says that the topic ratings is still the one that was archived"),
        ("a", False, 50, "nothing says that the topic ratings is still the one that was archived"),
        ("a", True, -5, "Kafka ends at offset "),
    ],
)
def test_nothing_is_taken_from_a_topic_that_may_be_another(
    tmp_path: Path, topic_id: str, ids: bool, more: int, why: str
) -> None:
    """Even where it has the same number of events, appended on the same day."""
    made(tmp_path, partitioned([Rating(f"u{n}", "i", 2.0, AT_MS) for n in range(60)]), ids=ids)
    harm(tmp_path, "ratings")
    others = partitioned([Rating(f"u{n}", "other", 4.0, AT_MS) for n in range(60 + more)], AT_MS + 1000)
    (done,) = repaired(tmp_path, Topics(others, topic_id))
    assert done.lost
    assert why in done.sentence()
    taken = table(tmp_path)
    assert (len(taken), done.lost.rows) == (0, 60)
    ends = {at: 1 + max(record.offset for record in found) for at, found in Topics(others[:60]).by_sequence.items()}
    assert done.lost.offsets == {at.partition: ((0, end - 1),) for at, end in ends.items()} or more < 0


def test_a_partition_that_kafka_does_not_have_is_named(tmp_path: Path) -> None:
    records = partitioned([Rating(f"u{n}", "i", 2.0, AT_MS) for n in range(30)])
    made(tmp_path, records)
    before = table(tmp_path)
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics([record for record in records if record.partition != 1]))
    assert done.why == ("Kafka has nothing of ratings/1",)
    assert table(tmp_path) == [row for row in before if row["partition"] != 1]
    assert done.lost
    assert set(done.lost.offsets) == {1}


def test_a_broker_that_goes_away_leaves_everything_as_it_was(tmp_path: Path) -> None:
    class Broken(Topics):
        def between(self, at: At, first: int, stop: int) -> Iterator[list[Record]]:
            yield next(super().between(at, first, stop))
            raise SourceUnavailable("no Kafka")

    records = partitioned(MIXED)
    made(tmp_path, records)
    harm(tmp_path, "ratings", "clicks")
    before = {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*.*")}
    with pytest.raises(SourceUnavailable):
        repaired(tmp_path, Broken(records))
    assert {path: path.read_bytes() for path in (tmp_path / "archive").rglob("*.*")} == before


# Users who were removed. Between topics only times say what was before a removal.

HOURS = 3_600_000
REMOVAL: list[Event] = [
    *(Rating(f"u{n}", "i1", 2.0) for n in range(10)),
    *(Rating("gone", f"i{n}", 1.0) for n in range(5)),
    UserRemoval("gone"),
    *(Rating("gone", f"j{n}", 5.0) for n in range(3)),
    *(UserUpdate(f"u{n}", {"age": 1.0}) for n in range(30)),
    *(Rating(f"v{n}", "i1", 2.0) for n in range(10)),
]


def receipt(records: Sequence[Record], **fields: str) -> Removal:
    """What the state knows of the removal in REMOVAL."""
    record = next(record for record in records if record.topic == "users" and record.value is None)
    return Removal(1, record.topic, record.partition, record.offset, **fields)  # type: ignore[arg-type]  # a stage


def without_the_removal(records: Sequence[Record]) -> list[Record]:
    """As Kafka has it once the removal itself is compacted away."""
    return [record for record in records if record.topic != "users" or record.value is not None]


def test_removed_users_stay_away_and_come_back_as_far_as_the_files_had_them(tmp_path: Path) -> None:
    records = partitioned(REMOVAL)
    made(tmp_path, records)
    before = table(tmp_path)
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics(records), receipt(records, stage="complete"))
    assert (done.lost, table(tmp_path)) == (None, before)
    assert {row["item_id"] for row in before if row["user_id"] == "gone"} == {"j0", "j1", "j2"}


def test_where_rows_are_missing_nothing_is_taken_of_a_removed_user_from_within_a_day(tmp_path: Path) -> None:
    records = partitioned(REMOVAL)
    made(tmp_path, records)
    before = table(tmp_path)
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics(records, begins={At("ratings", 0): 2}), receipt(records, stage="complete"))
    wanted = [row for row in before if row["topic"] != "ratings" or row["partition"] != 0 or row["offset"] >= 2]
    assert table(tmp_path) == [row for row in wanted if row["user_id"] != "gone"]
    assert done.lost


def test_a_removed_user_who_came_back_a_day_later_is_taken(tmp_path: Path) -> None:
    records = partitioned(REMOVAL)
    late = partitioned([*REMOVAL, *(Rating("gone", f"k{n}", 5.0) for n in range(4))])[len(REMOVAL) :]
    late = [Record(r.topic, r.partition, r.offset, r.timestamp_ms + 2 * DAY_MS, r.key, r.value) for r in late]
    made(tmp_path, [*records, *late])
    before = table(tmp_path)
    harm(tmp_path, "ratings")
    repaired(tmp_path, Topics([*records, *late], begins={At("ratings", 0): 2}), receipt(records, stage="complete"))
    assert {row["item_id"] for row in table(tmp_path) if row["user_id"] == "gone"} == {"k0", "k1", "k2", "k3"}
    assert len(before) > len(table(tmp_path))


def test_nothing_is_taken_where_nobody_can_tell_who_was_removed(tmp_path: Path) -> None:
    """Kafka still has this user's ratings, which the archive had erased, and no longer the removal."""
    records = partitioned(REMOVAL)
    made(tmp_path, records)
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics(without_the_removal(records)), receipt(records, stage="complete"))
    assert "there are more rows than these files had" in done.sentence()
    assert [row for row in table(tmp_path) if row["topic"] == "ratings"] == []
    assert done.lost
    assert done.lost.rows == 23


@pytest.mark.parametrize(("days", "taken"), [(0, 0), (3, 8)])
def test_a_removal_that_is_compacted_away_concerns_only_rows_from_before_it(
    tmp_path: Path, days: int, taken: int
) -> None:
    """What was appended a day after the next record of `users` was not of that user."""
    records = partitioned(REMOVAL)
    later = partitioned([*REMOVAL, *(Rating("w", f"i{n}", 2.0) for n in range(10))])[len(REMOVAL) :]
    later = [Record(r.topic, r.partition, r.offset, r.timestamp_ms + days * DAY_MS, r.key, r.value) for r in later]
    made(tmp_path, records)
    archived(tmp_path, later)
    newest = max(read_manifest(tmp_path / "archive").files, key=lambda file: file.number)
    (tmp_path / "archive" / newest.path).unlink()
    begins = {sequence_of(later[0]): later[2].offset}
    kept = Topics([*without_the_removal(records), *later], begins=begins)
    (done,) = repaired(tmp_path, kept, receipt(records, stage="complete"))
    assert done.restored == taken
    assert done.lost
    assert done.lost.rows == 10 - taken
    assert ("users whose removal is no longer in the topic users" in done.sentence()) == (taken == 0)


@pytest.mark.parametrize("same_as", [None, "gone"])
def test_profiles_come_back_where_none_can_name_a_user_whose_removal_is_compacted_away(
    tmp_path: Path, same_as: str | None
) -> None:
    records = partitioned([UserUpdate("friend", same_as=same_as), *REMOVAL])
    made(tmp_path, records)
    before = table(tmp_path)
    assert b"gone" not in b"".join((row["value"] or "").encode() for row in before)
    harm(tmp_path, "users")
    (done,) = repaired(tmp_path, Topics(without_the_removal(records)), receipt(records, stage="complete"))
    assert table(tmp_path) == [row for row in before if row["topic"] != "users" or same_as is None]
    assert (done.lost is None) == (same_as is None)


def test_a_user_whose_erasure_is_under_way_stays_away(tmp_path: Path) -> None:
    records = partitioned(REMOVAL)
    made(tmp_path, without_the_removal(records))
    before = table(tmp_path)
    harm(tmp_path, "ratings")
    (done,) = repaired(tmp_path, Topics(without_the_removal(records)), receipt(records, user_id="gone"))
    assert table(tmp_path) == [row for row in before if row["user_id"] != "gone"]
    assert done.lost
    assert done.lost.rows == 8


def test_ids_are_noted_once_and_a_topic_made_anew_is_told(tmp_path: Path) -> None:
    archive = made(tmp_path, partitioned([Rating("u", "i", 2.0)] * 3))
    archive.open()
    (at,) = archive.offsets
    assert archive.note_topics({"ratings": "a"}) == []
    assert archive.note_topics({"ratings": "b", "clicks": "a"}) == ["ratings"]
    noted = Archive(tmp_path).manifest.topics["ratings"]
    assert (noted.id, noted.since) == ("b", {at.partition: 3})
