"""Kafka as a source, with a real broker: every record exactly once, and a sentence for every error."""

import contextlib
import itertools
import json
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from broker import PASSWORD, USER, Broker, Given, free_ports, sasl_of
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import RetriableError
from kafka.structs import TopicPartition as Partition

from streamer.checks.sources import CHECKS, Subject
from streamer.consumers import SOURCES
from streamer.consumers.kafka import KafkaSource
from streamer.core.errors import BadSettings, NotAuthorised, SourceLost, SourceUnavailable
from streamer.core.events import TOPICS, Message, Offsets, Record, TopicPartition, sequence_of
from streamer.core.protocols import Hinted, Source
from streamer.core.settings import KafkaSettings
from streamer.producers.kafka import KafkaSink

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

DEADLINE_S = 60.0


@contextmanager
def opened(at: str, offsets: Offsets | None = None, **settings: object) -> Iterator[KafkaSource]:
    """A source after its first seek, as soon as the broker allows it."""
    source = KafkaSource(KafkaSettings(kafka=at, **settings))  # type: ignore[arg-type]  # any setting
    try:
        source.seek(offsets or {})
        yield source
    finally:
        source.close()


def refused(at: str, offsets: Offsets | None = None, **settings: object) -> None:
    """The message of the error that a seek must raise."""
    with opened(at, offsets, **settings):
        pass


@contextmanager
def admin(at: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=at, bootstrap_timeout_ms=10_000)
    try:
        yield client
    finally:
        client.close()


def until(source: KafkaSource, done: Callable[[list[Record]], bool], max_records: int = 500) -> list[Record]:
    """Poll until there are enough records."""
    records: list[Record] = []
    deadline = time.monotonic() + DEADLINE_S
    while not done(records):
        assert time.monotonic() < deadline, f"{len(records)} records came in {DEADLINE_S} s"
        with contextlib.suppress(SourceUnavailable):
            polled = source.poll(max_records, 0.1)
            assert len(polled) <= max_records
            records += polled
    return records


def drained(source: KafkaSource, count: int, max_records: int = 500) -> list[Record]:
    """Poll `count` records; fails if more arrive."""
    records = until(source, lambda records: len(records) >= count, max_records)
    assert list(source.poll(100, 0.5)) == []
    return records


def ratings(first: int, last: int, users: int = 40) -> list[Message]:
    return [Message("ratings", b"u%d" % (k % users), b"%d" % k) for k in range(first, last)]


def publish(at: str, messages: Sequence[Message]) -> Offsets:
    sink = KafkaSink(KafkaSettings(kafka=at))
    try:
        return sink.publish(messages)
    finally:
        sink.close()


def next_offsets(records: Sequence[Record]) -> dict[TopicPartition, int]:
    return {sequence_of(record): record.offset + 1 for record in records}


def values(records: Sequence[Record]) -> list[int]:
    return sorted(int(record.value or b"-1") for record in records)


def wait_for(what: str, done: Callable[[], bool], source: KafkaSource) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, f"{what} did not happen in {DEADLINE_S} s"
        with contextlib.suppress(SourceUnavailable):
            source.poll(1, 0.05)


@pytest.fixture
def fresh(fresh_broker: Broker | Given) -> str:
    return fresh_broker.bootstrap


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


def test_missing_topics_that_must_not_be_created_are_named(fresh: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"lacks the topics 'ratings' \(12 partitions, cleanup.policy=delete"):
        refused(fresh, kafka_create_topics=False)
    with pytest.raises(BadSettings, match=r"replication factor 3: .*change kafka_replication"):
        refused(fresh, kafka_replication=3)


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


def test_retention_beyond_the_stored_offset_raises_source_lost(fresh: str) -> None:
    offsets = publish(fresh, ratings(0, 100))
    (at, end), *_ = offsets.items()
    assert end > 2
    with admin(fresh) as client:
        client.delete_records({Partition(*at): end - 1})
    with pytest.raises(
        SourceLost, match=f"wanted to continue at offset 1 of ratings/{at.partition}, and there are {end - 1} to {end}"
    ):
        refused(fresh, {**offsets, at: 1})
    with opened(fresh, {**offsets, at: end - 1}) as source:
        assert len(drained(source, 1)) == 1


def test_retention_that_overtakes_an_idle_source_raises_source_lost(fresh: str) -> None:
    offsets = publish(fresh, ratings(0, 100, users=1))
    (at, end), *_ = offsets.items()
    with opened(fresh) as source:
        with admin(fresh) as client:
            client.delete_records({Partition(*at): end - 1})
        with pytest.raises(SourceLost, match="no longer in Kafka"):
            until(source, lambda _: False)


def test_a_recreated_topic_raises_source_lost_and_is_not_read_from_its_beginning(fresh: str) -> None:
    offsets = publish(fresh, ratings(0, 100))
    with admin(fresh) as client:
        client.delete_topics(["ratings"])
        with pytest.raises(SourceUnavailable, match="topic 'ratings', which was read before, is missing at"):
            refused(fresh, offsets)
        assert "ratings" not in client.list_topics(), "it was made anew, though it had been read"
    publish(fresh, ratings(0, 10))
    with pytest.raises(SourceLost, match="recreated"):
        refused(fresh, offsets)


def test_a_topic_recreated_while_it_is_read_raises_source_lost(fresh: str) -> None:
    publish(fresh, ratings(0, 10))
    with opened(fresh) as source:
        drained(source, 10)
        with admin(fresh) as client:
            client.delete_topics(["ratings"])
        publish(fresh, ratings(0, 500))
        with pytest.raises(SourceLost, match="recreated"):
            until(source, lambda _: False)


def test_a_topic_with_fewer_partitions_than_were_read_raises_source_lost(fresh: str) -> None:
    publish(fresh, ratings(0, 10))
    with pytest.raises(SourceLost, match="partition 12 of 'ratings', read up to offset 3, is missing"):
        refused(fresh, {TopicPartition("ratings", 12): 3})


def test_compaction_on_a_topic_of_events_is_refused(fresh: str) -> None:
    with admin(fresh) as client:
        client.create_topics(
            {
                "ratings": {
                    "num_partitions": 2,
                    "replication_factor": 1,
                    "configs": {"cleanup.policy": "compact,delete"},
                }
            },
            wait_for_metadata=True,
        )
    with pytest.raises(
        BadSettings, match=r"topic 'ratings' .* has cleanup.policy=compact,delete: .* set cleanup.policy=delete"
    ):
        refused(fresh)


def test_topics_with_batches_larger_than_a_fetch_are_refused_at_the_start(fresh: str) -> None:
    with admin(fresh) as client:
        client.create_topics(
            {"clicks": {"num_partitions": 2, "replication_factor": 1, "configs": {"max.message.bytes": "104857600"}}},
            wait_for_metadata=True,
        )
    with pytest.raises(BadSettings, match=r"max.message.bytes=104857600"):
        refused(fresh)


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
def test_compressed_records_are_read_or_the_reason_is_given(fresh: str, codec: str) -> None:
    with opened(fresh) as source:
        kcat(fresh, "ratings", "u:1\nu:2\nu:3\n", "-z", codec)
        for _ in range(3):  # as often as it is asked: never skipped, and never a poll that spins
            records, reason = read_or_reason(source)
            if reason:
                assert codec != "gzip"
                assert codec in reason.lower()
            else:
                assert [record.value for record in records] == [b"1", b"2", b"3"]
                break


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


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_and_a_wrong_address_get_different_messages(
    broker: Broker | Given, tmp_path: Path, mechanism: str
) -> None:
    at, secret = sasl_of(broker), tmp_path / "password"
    sasl = {
        "kafka_security": "SASL_PLAINTEXT", "kafka_sasl_mechanism": mechanism,
        "kafka_username": USER, "kafka_password_file": str(secret),
    }  # fmt: skip
    secret.write_text(PASSWORD)
    with opened(at, **sasl) as source:
        assert list(source.poll(1, 0.1)) == []
    secret.write_text("wrong")
    with pytest.raises(
        NotAuthorised, match=rf"refused 'alice' by SASL_PLAINTEXT, {mechanism}: .*kafka_password_file"
    ) as no:
        refused(at, **sasl)
    assert "wrong" not in str(no.value)
    with pytest.raises(NotAuthorised, match="refused 'bob, the =unknown'"):
        refused(at, **{**sasl, "kafka_username": "bob, the =unknown"})
    (port,) = free_ports(1)
    with pytest.raises(SourceUnavailable, match=f"no Kafka at 127.0.0.1:{port}: Connection refused") as away:
        refused(f"127.0.0.1:{port}", **sasl)
    assert not isinstance(away.value, NotAuthorised)


def test_the_wrong_security_protocol_is_reported(broker: Broker | Given, tmp_path: Path) -> None:
    at, secret = sasl_of(broker), tmp_path / "password"
    secret.write_text(PASSWORD)
    sasl = {"kafka_security": "SASL_PLAINTEXT", "kafka_username": USER, "kafka_password_file": str(secret)}
    with pytest.raises(NotAuthorised, match="its listener does not use SASL: check kafka_security"):
        refused(broker.bootstrap, **sasl)
    with pytest.raises(NotAuthorised, match="was reached, but TLS failed"):
        refused(broker.bootstrap, kafka_security="SSL")
    source = KafkaSource(KafkaSettings(kafka=at))  # without credentials where some are needed
    try:
        assert "does not answer as PLAINTEXT" in str(answered(source))
    finally:
        source.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"HTTP/1.1 400 Bad Request",
        b"\0\0\0\6\0\0\0\0\0\0" + b"\0\0\0\6\0\0\0\0\0\0",
        b"\0\0\0\6\0\0\0\0\0\0" + b"\0\0\0\x0d\0\0\0\0" + b"\0\0\xff\xff\0\0\0\1r",
    ],
    ids=["nothing", "HTTP", "too short", "half"],
)
def test_a_server_that_is_not_kafka_is_reported(answers: bytes, mechanism: str, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answers)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            settings = KafkaSettings(
                kafka=f"127.0.0.1:{server.getsockname()[1]}", kafka_security="SASL_PLAINTEXT",
                kafka_sasl_mechanism=mechanism, kafka_username=USER, kafka_password_file=str(secret),
            )  # fmt: skip
            source = KafkaSource(settings)
            assert "accepts connections but does not answer as SASL_PLAINTEXT" in str(answered(source))
            source.close()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def answered(source: KafkaSource) -> SourceUnavailable:
    """Why it cannot seek; the first messages may only say that there is no answer yet."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with pytest.raises(SourceUnavailable) as caught:
            source.seek({})
        if "has not answered" not in str(caught.value):
            return caught.value
    raise AssertionError(f"no answer in {DEADLINE_S} s")


def test_the_library_never_logs_at_debug_because_it_would_log_the_password(fresh: str) -> None:
    logging.getLogger("kafka").setLevel(logging.DEBUG)
    logging.getLogger("kafka.net.connection").setLevel(logging.DEBUG)
    with opened(fresh):
        assert logging.getLogger("kafka").level == logging.INFO
        assert logging.getLogger("kafka.net.connection").getEffectiveLevel() >= logging.INFO
    logging.getLogger("kafka").setLevel(logging.WARNING)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kafka": "localhost"}, "kafka = 'localhost' is not HOST:PORT"),
        ({"kafka": "a:1,b:x"}, "kafka = 'b:x' is not HOST:PORT"),
        ({"kafka": "a:1", "kafka_security": "TLS"}, "kafka_security = 'TLS': choose one of PLAINTEXT, SSL"),
        ({"kafka": "a:1", "kafka_security": "SASL_SSL"}, "needs kafka_username and kafka_password_file"),
        (
            {"kafka": "a:1", "kafka_security": "SSL", "kafka_ca_file": "/none.pem"},
            "certificates for Kafka in /none.pem",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_asked(
    settings: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BadSettings, match=sentence):
        KafkaSource(KafkaSettings(**settings))  # type: ignore[arg-type]  # any setting
