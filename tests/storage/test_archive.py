"""The archive: exactly the accepted events, once, in order, as Parquet for any tool, and without forgotten users."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from archiving import AT_MS, DAY_MS, LEARNING, archived, holds, logged, table
from commands import run
from learning import events as stream_of
from learning import learn
from learning import records as records_of
from msgspec.structs import replace

from streamer.consumers.files import read
from streamer.core.batch import CLICK, RATING, REPEATED, REPLACED, RETRACTED, Batch, Events
from streamer.core.errors import BadState, DamagedFile
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
from streamer.core.superseded import current
from streamer.storage.archive import parquet
from streamer.storage.archive.archive import Archive
from streamer.storage.archive.manifest import COPY, MANIFEST, read_manifest, write_manifest
from streamer.storage.archive.merging import MERGED_FILES
from streamer.stream.engine import Engine


def rows_of(events: Events) -> list[tuple[str, str, int, float, int]]:
    return [
        (events.user_ids[u], events.item_ids[i], int(kind), float(value), int(time_ms))
        for u, i, kind, value, time_ms in zip(
            events.users, events.items, events.kinds, events.values, events.times_ms, strict=True
        )
    ]


def same(left: Events, right: Events) -> bool:
    return rows_of(left) == rows_of(right) and left.keys.tolist() == right.keys.tolist()


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
                kind = (
                    RATING if batch.kinds[k] == REPLACED else int(batch.kinds[k])
                )  # the archive leaves that to `current`
                seen.append((*who, kind, float(batch.values[k]), int(batch.times_ms[k]), int(batch.keys[k])))  # fmt: skip
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


@pytest.mark.parametrize("number", [b"7345", b"7345.0"])
def test_purging_takes_a_forgotten_user_out_of_profiles_that_name_them_by_a_number(
    tmp_path: Path, number: bytes
) -> None:
    profile = Record("users", -1, 0, AT_MS, b"8", b'{"user_id":8,"attributes":{"age":4},"same_as":%s}' % number)
    archive = archived(tmp_path, [profile])
    archive.commit({}, {}, {"7345"})
    archive.purge()
    assert [msgspec.json.decode(row["value"]) for row in table(tmp_path)] == [{"user_id": 8, "attributes": {"age": 4}}]


@pytest.mark.parametrize("archiving", ["on", "off"])
def test_purging_leaves_no_byte_of_a_forgotten_user(tmp_path: Path, archiving: str) -> None:
    events: list[Event] = [
        UserUpdate("secret", {"age": 3.0}),
        UserUpdate("friend", {"age": 4.0}, same_as="secret"),
        UserUpdate("other", {"age": 5.0}, same_as="somebody"),
        *(Rating(who, f"i{n}", 1.0, n) for n in range(5) for who in ("secret", "friend", "other")),
        *(Click(who, "i1") for who in ("secret", "other")),
    ]
    archive = archived(tmp_path, logged(events), cut=4)
    assert holds(tmp_path, b"secret")
    if archiving == "on":
        archive = archived(tmp_path, logged([UserRemoval("secret")], len(events)))
    else:  # nobody reads the removal's record: the users are given
        archive.commit({}, {}, {"secret"})
    seen_before = archive.events(LEARNING, None)
    archive.purge()
    assert holds(tmp_path, b"secret") == []
    left = [(row["topic"], row["user_id"]) for row in table(tmp_path)]
    assert left == [("clicks", "other"), *[("ratings", "friend"), ("ratings", "other")] * 5, ("users", "friend"), ("users", "other")]  # fmt: skip
    profiles = [msgspec.json.decode(row["value"]) for row in table(tmp_path)[-2:]]
    assert [(profile["attributes"], profile.get("same_as")) for profile in profiles] == [({"age": 4.0}, None), ({"age": 5.0}, "somebody")]  # fmt: skip
    assert same(archive.events(LEARNING, None), seen_before)
    assert same(Archive(tmp_path).events(LEARNING, None), seen_before)
    files = sorted(tmp_path.rglob("*.parquet"))
    archive.purge()
    assert sorted(tmp_path.rglob("*.parquet")) == files, "nothing is left to rewrite"


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
    left = {path for path in (tmp_path / "archive").rglob("*") if path.is_file()}
    assert left == {named, tmp_path / "archive" / MANIFEST, tmp_path / "archive" / COPY}


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", "i", 1.0, 1)]))
    (file,) = (tmp_path / "archive").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedFile, match=r"00000000\.parquet is damaged: .*run `streamer archive repair`"):
        archive.events(LEARNING, None)
    file.unlink()
    with pytest.raises(DamagedFile, match=r"00000000\.parquet is missing: run `streamer archive repair`"):
        archive.events(LEARNING, None)
    (tmp_path / "archive/_archive.json").write_text('{"format": 2}')
    with pytest.raises(BadState, match="has format 2, this streamer writes format 1"):
        Archive(tmp_path)


@pytest.mark.parametrize("listed", [1, 3])
def test_a_file_with_other_rows_than_it_is_listed_with_is_refused(tmp_path: Path, listed: int) -> None:
    """Another file in its place, whole by itself."""
    archived(tmp_path, logged([Rating("u", "i", 1.0, 1), Rating("u", "j", 1.0, 2)]))
    was = read_manifest(tmp_path / "archive")
    write_manifest(tmp_path / "archive", replace(was, files=(replace(was.files[0], rows=listed),)))
    with pytest.raises(BadState, match=f"2 rows, not {listed}"):
        Archive(tmp_path).events(LEARNING, None)


def test_a_snapshot_does_not_change_with_the_archive(tmp_path: Path) -> None:
    archive = archived(tmp_path, logged([Rating("u", f"i{n}", 1.0, n) for n in range(20)]), cut=2)
    before = archive.events(LEARNING, None)
    archive.snapshot(tmp_path / "copy")
    while archive.compact("2099-01-01"):
        pass
    archive.commit({}, {}, {"u"})
    archive.purge()
    assert archive.rows == 0
    assert same(Archive(tmp_path / "copy").events(LEARNING, None), before)


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


def test_ratings_anew_and_withdrawn_are_archived_and_the_last_of_a_pair_is_current(tmp_path: Path) -> None:
    """With a click made twice within a second, and one without a time of its own, which is never taken for a double click."""
    events = [
        *(Rating("u", "i", 2.0, AT_MS), Rating("u", "i", 5.0, AT_MS), Rating("u", "j", 1.0, AT_MS), Rating("u", "j", None, AT_MS)),
        *(Rating("v", "i", None, AT_MS), Click("v", "i", "view", AT_MS - 9), Click("v", "i", "view", AT_MS - 8)),
        Click("v", "i", "view"),
    ]  # fmt: skip
    archive = archived(tmp_path, logged(events))
    assert [row["rating"] for row in table(tmp_path) if row["topic"] == "ratings"] == [2, 5, 1, None, None]
    found = archive.events(LEARNING, None)
    assert found.kinds.tolist() == [RATING, RATING, RATING, RETRACTED, REPEATED, CLICK, REPEATED, CLICK]
    kept = current(found)
    assert [(kept.item_ids[i], kind, value) for i, kind, value in zip(kept.items, kept.kinds.tolist(), kept.values.tolist(), strict=True)] == [
        ("i", RATING, 5.0), ("i", CLICK, pytest.approx(0.2)), ("i", CLICK, pytest.approx(0.2)),
    ]  # fmt: skip
    again = read(tmp_path / "archive")
    assert [message.value for message in again.messages(0, 8)][3] == b'{"user_id":"u","item_id":"j","rating":null,"timestamp_ms":%d}' % AT_MS  # fmt: skip
    assert b"timestamp" not in (again.messages(7, 8)[0].value or b"")


def test_evaluating_the_archive_equals_evaluating_the_original_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = [e for e in stream_of(600) if isinstance(e, Rating | Click | ItemUpdate)]
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in good if not getattr(e, "event_id", None)))
    run("serve", "--data", tmp_path / "d", "--port", "0", "--replay", path, "--until-drained")

    def scores(of: Path) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(run("evaluate", of, "--json"))
        return {name: value for name, value in found.items() if "second" not in name and name != "stream"}

    assert scores(tmp_path / "d/archive") == scores(path)
    assert scores(path)["ratings"] > 100


def test_merging_holds_one_row_group_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 3)
    archive = archived(tmp_path, logged([Rating(f"u{n % 2}", f"i{n}", 1.0, n) for n in range(20)]), cut=10)
    while archive.compact("2099-01-01"):
        pass
    (path,) = tmp_path.rglob("*.parquet")
    assert pq.ParquetFile(path).num_row_groups == 8
    archive.commit({}, {}, {"u1"})
    archive.purge()
    assert [row["offset"] for row in table(tmp_path)] == list(range(0, 20, 2))
