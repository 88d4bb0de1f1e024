"""Kafka as a source, with a real broker: every record exactly once, also when broker, consumer or partitions change."""

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
from broker import Broker
from kafka import KafkaProducer
from kafka.errors import RetriableError
from kafka_reading import DEADLINE_S, admin, drained, next_offsets, opened, publish, ratings, until, values

from streamer.checks.sources import CHECKS, Subject
from streamer.consumers import SOURCES
from streamer.consumers.kafka import KafkaSource
from streamer.core.errors import SourceUnavailable
from streamer.core.events import TOPICS, Message, Record, TopicPartition, sequence_of
from streamer.core.protocols import Hinted, Source
from streamer.core.settings import KafkaSettings
from streamer.producers.kafka import KafkaSink

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def wait_for(what: str, done: Callable[[], bool], source: KafkaSource) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen in {DEADLINE_S} s"
        with contextlib.suppress(SourceUnavailable):
            source.poll(1, 0.05)


def test_the_source_is_in_the_registry_and_fits_the_protocols() -> None:
    assert SOURCES["kafka"] == "streamer.consumers.kafka:KafkaSource"
    source = KafkaSource(KafkaSettings(kafka="127.0.0.1:9"))
    assert isinstance(source, Source)
    assert isinstance(source, Hinted)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_source_passes_every_check_of_sources(check: Callable[[Subject], None], fresh: str) -> None:
    settings = KafkaSettings(kafka=fresh)
    sink = KafkaSink(settings)
    try:
        check(Subject(open=lambda: KafkaSource(settings), publish=sink.publish, cuts=4))
    finally:
        sink.close()


def test_missing_topics_are_created_with_partitions_and_limits(fresh: str) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    with opened(fresh):
        pass
    names = [*TOPICS, "dead-letters"]
    with admin(fresh) as client:
        found = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics(names)}
        configs = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])["topic"]
    assert found == {"ratings": 12, "clicks": 12, "items": 3, "users": 3, "dead-letters": 3}
    assert {configs[name]["max.message.bytes"]["value"] for name in names} == {"65536"}
    policies = {name: configs[name]["cleanup.policy"]["value"] for name in names}
    assert policies == {
        "ratings": "delete", "clicks": "delete", "dead-letters": "delete", "items": "compact", "users": "compact"
    }  # fmt: skip


def test_every_record_comes_once_and_in_order_within_its_partition(fresh: str) -> None:
    publish(fresh, ratings(0, 2000))
    with opened(fresh) as source:
        records = drained(source, 2000, max_records=70)
        assert values(records) == list(range(2000))
        assert len({record.partition for record in records}) == 12
        for _, part in itertools.groupby(sorted(records, key=sequence_of), sequence_of):
            offsets = [record.offset for record in part]
            assert offsets == list(range(len(offsets)))
        assert all(abs(time.time() * 1000 - record.timestamp_ms) < 600_000 for record in records)


def test_a_seek_into_the_middle_continues_exactly_there(fresh: str) -> None:
    publish(fresh, ratings(0, 1000))
    with opened(fresh) as source:
        seen = until(source, lambda records: len(records) >= 300, max_records=61)
    with opened(fresh, next_offsets(seen)) as source:
        rest = drained(source, 1000 - len(seen))
    assert values([*seen, *rest]) == list(range(1000))


def test_on_a_cold_start_the_catalogue_comes_first(fresh: str) -> None:
    publish(fresh, ratings(0, 200))
    large = b" " * 20_000  # more than one answer of the broker holds
    catalogue = [Message("items", b"i%d" % k, large) for k in range(300)]
    publish(fresh, [*catalogue, *(Message("users", b"u%d" % k, b"{}") for k in range(100))])
    publish(fresh, ratings(200, 300))
    with opened(fresh) as source:
        topics = [record.topic for record in drained(source, 700, max_records=33)]
        assert source.lag()["ratings"].keys() == set(range(12))
    assert set(topics[:400]) == {"items", "users"}
    assert set(topics[400:]) == {"ratings"}


def test_a_catalogue_that_was_read_is_not_waited_for_again(fresh: str) -> None:
    publish(fresh, [Message("items", b"i", b"{}"), *ratings(0, 100)])
    with opened(fresh) as source:
        seen = drained(source, 101)
    publish(fresh, [*(Message("items", b"j%d" % k, b"{}") for k in range(50)), *ratings(100, 150)])
    with opened(fresh, next_offsets(seen)) as source:
        assert not source._catalogue
        assert len(drained(source, 100)) == 100


def test_added_partitions_are_read_from_their_beginning(fresh: str) -> None:
    publish(fresh, ratings(0, 100))
    with opened(fresh) as source, admin(fresh) as client:
        seen = drained(source, 100)
        client.create_partitions({"ratings": 14})
        keys = [b"k%d" % k for k in range(200)]
        publish(fresh, [Message("ratings", key, b"%d" % k) for k, key in enumerate(keys, 100)])
        seen += drained(source, 200)
        assert values(seen) == list(range(300))
        assert {record.partition for record in seen} == set(range(14))
        client.create_partitions({"ratings": 16})
    publish(fresh, [Message("ratings", key, b"%d" % k) for k, key in enumerate(keys, 300)])
    with opened(fresh, next_offsets(seen)) as source:
        seen += drained(source, 200)
    assert values(seen) == list(range(500))
    assert {record.partition for record in seen} == set(range(16))


def test_aborted_transactions_are_never_returned_and_gaps_are_not_losses(fresh: str) -> None:
    publish(fresh, ratings(0, 1, users=1))
    producer = KafkaProducer(bootstrap_servers=fresh, transactional_id="t")
    try:
        producer.init_transactions()
        for first, keep in ((1, True), (100, False), (2, True), (200, False)):
            producer.begin_transaction()
            producer.send("ratings", b"%d" % first, b"u0")
            producer.flush()
            producer.commit_transaction() if keep else producer.abort_transaction()
    finally:
        producer.close()
    with opened(fresh) as source:
        seen = drained(source, 3)
        assert values(seen) == [0, 1, 2]
        wait_for("a lag of 0 behind the last marker", lambda: not any(source.lag()["ratings"].values()), source)
    assert [record.offset for record in seen] == [0, 1, 5]
    with opened(fresh, next_offsets(seen)) as source:
        assert list(source.poll(10, 1.0)) == []


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_records_are_read(fresh: str, codec: str) -> None:
    with opened(fresh) as source:
        kcat(fresh, "ratings", "u:1\nu:2\nu:3\n", "-z", codec)
        assert values(drained(source, 3)) == [1, 2, 3]


def read_or_reason(source: KafkaSource) -> tuple[Sequence[Record], str]:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            records = source.poll(10, 0.1)
        except SourceUnavailable as error:
            return [], str(error)
        if records:
            return records, ""
    raise AssertionError("neither records nor a reason")


def test_a_damaged_record_raises_at_every_poll_and_is_never_skipped(own_broker: Broker) -> None:
    at = own_broker.bootstrap
    for value in (b"0", b"damaged", b"2"):
        (sequence,) = publish(at, [Message("ratings", b"u", value)])
    log = own_broker.folder / "log" / f"ratings-{sequence.partition}" / f"{0:020}.log"
    whole = log.read_bytes()

    def write(changed: bytes) -> None:  # in place: the broker has it open
        with log.open("r+b") as file:
            file.seek(whole.index(b"damaged"))
            file.write(changed)

    write(b"daMaged")
    with opened(at) as source:
        assert [record.value for record in until(source, lambda records: bool(records))] == [b"0"]
        for _ in range(3):
            records, reason = read_or_reason(source)
            assert not records
            assert "CorruptRecordError" in reason
        write(b"damaged")
        assert [record.value for record in drained(source, 2)] == [b"damaged", b"2"]


def kcat(at: str, topic: str, lines: str, *options: str) -> None:
    subprocess.run(
        ["kcat", "-P", "-b", at, "-t", topic, "-K", ":", *options],
        input=lines.encode(), check=True, timeout=30, capture_output=True,
    )  # fmt: skip


def test_messages_of_kcat_are_read(fresh: str) -> None:
    with opened(fresh) as source:
        event = {"user_id": "u1", "item_id": "i9", "rating": 4.5}
        kcat(fresh, "ratings", f"u1:{json.dumps(event)}\n")
        (record,) = drained(source, 1)
    assert (record.topic, record.key) == ("ratings", b"u1")
    assert json.loads(record.value or b"") == event


def test_a_broker_that_is_killed_and_restarted_loses_no_record(own_broker: Broker) -> None:
    at = own_broker.bootstrap
    publish(at, ratings(0, 1000))
    with opened(at) as source:
        seen = until(source, lambda records: len(records) >= 300, max_records=50)
        own_broker.kill()
        reasons: list[str] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(reasons) < 3:
            assert time.monotonic() < deadline, "the broker is away, and poll did not say so"
            try:
                seen += source.poll(50, 0.05)
            except SourceUnavailable as error:
                reasons.append(str(error))
        assert all(f"no Kafka at {at}: Connection refused" in reason for reason in reasons)
        own_broker.start()
        publish(at, ratings(1000, 1200))
        seen += drained(source, 1200 - len(seen))
        assert values(seen) == list(range(1200))
        assert source.poll(10, 0.05) == []


def test_a_source_opened_before_its_broker_reads_once_the_broker_is_there(own_broker: Broker) -> None:
    publish(own_broker.bootstrap, ratings(0, 100))
    own_broker.kill()
    source = KafkaSource(KafkaSettings(kafka=own_broker.bootstrap))
    try:
        with pytest.raises(SourceUnavailable, match="Connection refused"):
            source.seek({})
        for _ in range(3):
            with pytest.raises(SourceUnavailable, match="Connection refused"):
                source.poll(10, 0.05)
        own_broker.start()
        assert values(drained(source, 100)) == list(range(100))
    finally:
        source.close()


def test_a_stalled_consumer_is_replaced(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.consumers.kafka.STALL_S", 0.3)
    publish(fresh, ratings(0, 100))
    with opened(fresh) as source:
        seen = drained(source, 100)
        stalled = source._consumer
        assert stalled is not None
        stalled.pause(*stalled.assignment())  # as the public stalls of the library look from outside
        publish(fresh, ratings(100, 200))
        seen += drained(source, 100)
        assert source._consumer is not stalled
    assert values(seen) == list(range(200))


def test_offsets_are_committed_as_a_hint_that_tools_see_and_that_may_fail(own_broker: Broker) -> None:
    at = own_broker.bootstrap
    offsets = publish(at, ratings(0, 100))
    with opened(at, offsets, kafka_group="tools-look-here") as source, admin(at) as client:

        def committed() -> Mapping[TopicPartition, int]:
            try:
                found = client.list_group_offsets({"tools-look-here": None})["tools-look-here"]
            except RetriableError:  # a broker's first group waits for its topic
                return {}
            return {TopicPartition(*at): offset.offset for at, offset in found.items()}

        for _ in range(50):  # two looks of the watch: the first commit fails, which is no trouble
            source.hint({**offsets, TopicPartition("log", 0): 7})
            assert list(source.poll(10, 0.05)) == []
        deadline = time.monotonic() + DEADLINE_S
        while committed() != offsets:
            assert time.monotonic() < deadline, f"wanted {offsets}, found {committed()}"
            source.hint(offsets)
            assert list(source.poll(10, 0.05)) == []
