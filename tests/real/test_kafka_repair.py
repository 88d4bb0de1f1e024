"""`streamer archive repair` with a real broker: rows of damaged files are fetched again from topics, as far as that is certain."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from archiving import table
from commands import run
from data_directory import until
from kafka.structs import TopicPartition as Partition
from kafka_reading import DEADLINE_S, admin, publish
from learning import settings

from streamer.app import App
from streamer.core.events import (
    TOPICS,
    Click,
    Event,
    ItemUpdate,
    Message,
    Offsets,
    Rating,
    UserRemoval,
    UserUpdate,
    message,
)  # fmt: skip
from streamer.storage.archive.archive import QUARANTINE
from streamer.storage.archive.manifest import read_manifest

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

LEARNERS = {"rating_learner": "bias", "click_learner": "popularity"}
EVENTS: list[Event] = [
    *(ItemUpdate(f"i{n}", f"Film {n}") for n in range(5)),
    *(UserUpdate("friend", {"age": 3.0}, same_as="gone"), UserUpdate("gone", {"age": 4.0})),
    *(Rating(f"u{n % 17}", f"i{n % 5}", 1.0 + n % 5, None, f"e{n if n % 2 else n // 2}") for n in range(200)),
    *(Click(f"u{n % 7}", f"i{n % 5}", "cart") for n in range(60)),
]


def learn(at: str, data: Path, events: Sequence[Event | Message]) -> Offsets:
    """Publish these events, and learn and archive them in a data directory."""
    offsets = publish(at, [event if isinstance(event, Message) else message(event) for event in events])
    app = App(settings(data=str(data), kafka=at, archive_interval_s=0.05, **LEARNERS))
    try:
        app.start()
        assert app.archiver is not None
        assert app.archiver.wait_for(offsets, DEADLINE_S)
        learned = app.memory.ledger
        until(lambda: all(learned.offsets.get(at, 0) >= offset for at, offset in offsets.items()))
    finally:
        app.close()
    return offsets


def files(data: Path, *topics: str) -> list[Path]:
    return sorted(path for topic in topics for path in (data / "archive").glob(f"topic={topic}/**/*.parquet"))


def harm(data: Path, *topics: str) -> None:
    """Change one byte of each file of these topics."""
    for path in files(data, *topics):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def contents(data: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (data / "archive").rglob("*") if path.is_file()}


def test_rows_of_damaged_files_are_fetched_again_from_kafka(fresh: str, tmp_path: Path) -> None:
    learn(
        fresh, tmp_path, [*EVENTS, Message("ratings", b"u1", b"{"), *(Rating("gone", f"i{n}", 1.0) for n in range(9))]
    )
    learn(
        fresh, tmp_path, [UserRemoval("gone"), Rating("gone", "i3", 2.0), *EVENTS[-260:-230], Rating("u1", "i1", 4.0)]
    )
    assert set(read_manifest(tmp_path / "archive").topics) == set(TOPICS)
    before = table(tmp_path)
    assert [row["item_id"] for row in before if row["user_id"] == "gone"] == ["i3"]
    harm(tmp_path, *TOPICS)
    files(tmp_path, "ratings")[0].unlink()
    damaged = contents(tmp_path)
    said = run("archive", "repair", "--data", tmp_path, "--kafka", "127.0.0.1:9", code=1)
    assert "no Kafka at 127.0.0.1:9: Connection refused" in said
    assert "the archive's files are as they were: repair again with --kafka HOST:PORT when it answers" in said
    assert "kafka names no server: give HOST:PORT" in run("archive", "repair", "--data", tmp_path, code=78)
    assert contents(tmp_path) == damaged
    said = run("archive", "repair", "--data", tmp_path, "--kafka", fresh)
    rows = sum(row["topic"] == "ratings" for row in before)
    assert f"all {rows:,} rows are back, from Kafka at {fresh}" in said
    assert table(tmp_path) == before
    assert "nothing to repair" in run("archive", "repair", "--data", tmp_path)
    assert json.loads(run("archive", "verify", "--data", tmp_path, "--json"))["lost"] == []


def test_rows_that_kafka_deleted_are_named_by_offset(fresh: str, tmp_path: Path) -> None:
    offsets = learn(fresh, tmp_path, [Rating(f"u{n % 17}", f"i{n % 5}", 3.0, None, f"e{n}") for n in range(200)])
    before = table(tmp_path)
    at = max((at for at in offsets if at.topic == "ratings"), key=lambda at: offsets[at])
    with admin(fresh) as client:
        client.delete_records({Partition(*at): 10})
    harm(tmp_path, "ratings")
    done = json.loads(run("archive", "repair", "--data", tmp_path, "--kafka", fresh, "--json", code=1))["repaired"]
    left = [row for row in before if (row["topic"], row["partition"]) != at or row["offset"] >= 10]
    assert (len(done), done[0]["restored"]) == (1, sum(row["topic"] == "ratings" for row in left))
    assert done[0]["lost"]["rows"] == len(before) - len(left) > 0
    assert done[0]["lost"]["offsets"] == {str(at.partition): [[0, 9]]}
    assert done[0]["why"] == [f"what is kept begins later: ratings/{at.partition} at 10"]
    assert [row for row in table(tmp_path) if row in before] == left


def test_nothing_is_taken_from_a_topic_that_was_made_anew(fresh: str, tmp_path: Path) -> None:
    """Though it has more events than the one before, at the same offsets, and from the same day."""
    offsets = learn(fresh, tmp_path, EVENTS)
    before = table(tmp_path)
    with admin(fresh) as client:
        client.delete_topics(["ratings"])
        others = [message(Rating(f"u{n % 17}", "other", 3.0)) for n in range(500)]
        publish(fresh, others)
    harm(tmp_path, "ratings", "clicks")
    said = run("archive", "repair", "--data", tmp_path, "--kafka", fresh, code=1)
    assert f"the topic ratings at Kafka at {fresh} was deleted and made anew" in said
    assert "all 60 rows are back" in said
    assert table(tmp_path) == [row for row in before if row["topic"] != "ratings"]
    (loss,) = read_manifest(tmp_path / "archive").lost
    ends = {at.partition: end for at, end in offsets.items() if at.topic == "ratings"}
    assert {at: (runs[0][0], runs[-1][1]) for at, runs in loss.offsets.items()} == {
        at: (0, end - 1) for at, end in ends.items()
    }
    assert list((tmp_path / "archive" / QUARANTINE).iterdir())


def test_a_kafka_without_the_topics_is_refused_and_can_be_given_up(fresh: str, tmp_path: Path) -> None:
    learn(fresh, tmp_path, EVENTS)
    with admin(fresh) as client:
        client.delete_topics([*TOPICS])
    harm(tmp_path, "clicks")
    damaged = contents(tmp_path)
    said = run("archive", "repair", "--data", tmp_path, "--kafka", fresh, code=1)
    assert f"Kafka at {fresh} does not have the topics clicks, users: give the address of the one that was read" in said
    assert contents(tmp_path) == damaged
    said = run("archive", "repair", "--data", tmp_path, "--without-kafka", code=1)
    assert "60 rows of topic=clicks" in said
    assert "partition " in said
    assert json.loads(run("archive", "verify", "--data", tmp_path, "--json"))["damaged"] == {}
    assert "clicks" not in {row["topic"] for row in table(tmp_path)}
