"""Kafka as a sink, with a real broker: confirmed messages are durable, and errors say what cannot be published."""

import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from broker import PASSWORD, USER, Broker, Given, free_ports
from commands import invoke
from kafka_reading import drained, opened

from streamer.consumers.kafka import KafkaSource
from streamer.core.errors import BadEvent, BadSettings, NotAuthorised, Reason, SourceUnavailable
from streamer.core.events import (
    Click,
    ItemRemoval,
    ItemUpdate,
    Message,
    Offsets,
    Rating,
    Record,
    TopicPartition,
    message,
)
from streamer.core.protocols import Sink
from streamer.core.settings import KafkaSettings
from streamer.producers import SINKS
from streamer.producers.kafka import DELIVERY_S, KafkaSink

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

DEADLINE_S = 60.0


@contextmanager
def sink_to(at: str, **settings: object) -> Iterator[KafkaSink]:
    sink = KafkaSink(KafkaSettings(kafka=at, **settings))  # type: ignore[arg-type]  # any setting
    try:
        yield sink
    finally:
        sink.close()


def read(at: str, before: Offsets, after: Offsets) -> list[Record]:
    """The records between the two offsets, by sequence."""
    source = KafkaSource(KafkaSettings(kafka=at))
    try:
        source.seek(before)
        found: dict[TopicPartition, dict[int, Record]] = {sequence: {} for sequence in after}
        deadline = time.monotonic() + DEADLINE_S
        while any(len(found[sequence]) < end - before.get(sequence, 0) for sequence, end in after.items()):
            assert time.monotonic() < deadline, f"wanted what is before {after}, found {found}"
            for record in source.poll(500, 0.1):
                found.setdefault(TopicPartition(record.topic, record.partition), {})[record.offset] = record
        return [record for sequence in sorted(after) for _, record in sorted(found[sequence].items())]
    finally:
        source.close()


@pytest.fixture(scope="module")
def at(broker: Broker | Given) -> str:
    return broker.bootstrap


@pytest.fixture
def before(at: str) -> dict[TopicPartition, int]:
    """The current end of every partition."""
    source = KafkaSource(KafkaSettings(kafka=at))
    try:
        source.seek({})
        assert source._snapshot is not None
        return dict(source._snapshot.ends)
    finally:
        source.close()


def test_the_sink_is_in_the_registry_and_fits_the_protocol() -> None:
    assert SINKS["kafka"] == "streamer.producers.kafka:KafkaSink"
    assert isinstance(KafkaSink(KafkaSettings(kafka="127.0.0.1:9")), Sink)


def test_publish_returns_the_offsets_after_the_durable_messages(at: str, before: dict[TopicPartition, int]) -> None:
    sent = [message(Rating(f"u{k}", "i", k)) for k in range(200)]
    sent += [message(ItemUpdate("i")), message(ItemRemoval("i")), message(Click("u1", "i"))]
    with sink_to(at) as sink:
        after = sink.publish(sent)
    assert sum(after.values()) - sum(before[sequence] for sequence in after) == len(sent)
    found = read(at, before, after)
    assert {(r.topic, r.key, r.value) for r in found} == {(m.topic, m.key, m.value) for m in sent}
    removal = next(record for record in found if record.topic == "items" and record.value is None)
    assert removal.key == b"i"
    assert all(abs(record.timestamp_ms / 1000 - time.time()) < 600 for record in found)


def test_messages_of_one_key_keep_their_order_and_times(at: str, before: dict[TopicPartition, int]) -> None:
    hour_ago_ms = time.time_ns() // 1_000_000 - 3_600_000  # what is older than a week, Kafka's retention takes at once
    sent = [Message("clicks", b"same", b"%d" % k, hour_ago_ms + k) for k in range(500)]
    with sink_to(at) as sink:
        after = sink.publish(sent[:250])
        after = {**after, **sink.publish(sent[250:])}
    assert len(after) == 1
    found = read(at, before, after)
    assert [(record.value, record.timestamp_ms) for record in found] == [(m.value, m.timestamp_ms) for m in sent]


def test_a_key_goes_where_java_and_kcat_send_it(at: str, before: dict[TopicPartition, int]) -> None:
    keys = ["u1", "u2", "a", "é世", "longer than four bytes", "with/slash and space", "x" * 255]
    with sink_to(at) as sink:
        after = sink.publish([Message("ratings", key.encode(), b"{}") for key in keys])
        lines = "".join(f"{key}|{{}}\n" for key in keys)
        subprocess.run(
            ["kcat", "-P", "-b", at, "-t", "ratings", "-K", "|", "-X", "topic.partitioner=murmur2_random"],
            input=lines.encode(), check=True, timeout=30,
        )  # fmt: skip
        after = sink.publish([Message("ratings", key.encode(), b"{}") for key in keys])
    partitions: dict[bytes, list[int]] = {}
    for record in read(at, before, after):
        partitions.setdefault(record.key or b"", []).append(record.partition)
    assert {key: len(where) for key, where in partitions.items()} == {key.encode(): 3 for key in keys}
    assert all(len(set(where)) == 1 for where in partitions.values()), partitions


def test_a_message_that_is_too_large_is_refused_and_the_sink_goes_on(
    at: str, before: dict[TopicPartition, int]
) -> None:
    with sink_to(at) as sink:
        with pytest.raises(
            BadEvent, match="the event has 65409 bytes with its key; Kafka's topics accept 65408"
        ) as caught:
            sink.publish([Message("ratings", b"k", b"fits"), Message("ratings", b"k", b"x" * 65_408)])
        assert caught.value.reason is Reason.TOO_LARGE
        after = sink.publish([Message("ratings", b"k", b"x" * 65_407)])  # the largest that is taken
    assert sum(after.values()) - sum(before[sequence] for sequence in after) == 1, "a part of what was refused went out"


def test_a_topic_with_a_smaller_limit_is_reported_and_the_sink_goes_on(fresh_broker: Broker) -> None:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=fresh_broker.bootstrap)
    small = {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "1000"}}
    admin.create_topics({"ratings": small}, wait_for_metadata=True)
    admin.close()
    with sink_to(fresh_broker.bootstrap) as sink:
        for _ in range(3):
            with pytest.raises(BadEvent, match=r"a topic's limit is too low: set max.message.bytes=65536"):
                sink.publish([Message("ratings", b"k", b"x" * 5000)])
            assert list(sink.publish([Message("ratings", b"k", b"{}")])) == [TopicPartition("ratings", 0)]


def test_a_removal_without_a_key_is_refused() -> None:
    with sink_to("127.0.0.1:9") as sink, pytest.raises(BadEvent, match="needs the id as its key"):
        sink.publish([Message("items", None, None)])


def test_publishing_no_messages_returns_no_offsets() -> None:
    with sink_to("127.0.0.1:9") as sink:
        assert sink.publish([]) == {}


def test_threads_can_share_a_sink(at: str, before: dict[TopicPartition, int]) -> None:
    ready = threading.Barrier(8)
    with sink_to(at) as sink, ThreadPoolExecutor(8) as pool:

        def publish(thread: int) -> Offsets:
            ready.wait()
            return sink.publish([Message("clicks", b"%d" % thread, b"%d %d" % (thread, k)) for k in range(100)])

        answers = list(pool.map(publish, range(8)))
    after: dict[TopicPartition, int] = {}
    for answer in answers:
        after |= {sequence: max(offset, after.get(sequence, 0)) for sequence, offset in answer.items()}
    found = read(at, before, after)
    for thread in range(8):
        mine = [record.value for record in found if record.key == b"%d" % thread]
        assert mine == [b"%d %d" % (thread, k) for k in range(100)]


def test_a_killed_broker_is_unavailable_within_the_timeout_and_works_again(own_broker: Broker) -> None:
    with sink_to(own_broker.bootstrap) as sink:
        first = sink.publish([Message("ratings", b"k", b"0")])
        own_broker.kill()
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(SourceUnavailable, match=r"no Kafka at .*: Connection refused"):
                sink.publish([Message("ratings", b"k", b"1")])
            assert time.monotonic() - begun < 3 * DELIVERY_S, "it blocked"
        own_broker.start()
        deadline = time.monotonic() + DEADLINE_S
        while True:
            assert time.monotonic() < deadline, "it does not work again"
            try:
                after = sink.publish([Message("ratings", b"k", b"2")])
                break
            except SourceUnavailable:
                continue
    (sequence,) = first
    values = [record.value for record in read(own_broker.bootstrap, first, after)]
    assert after[sequence] > first[sequence]
    assert values[-1] == b"2"
    assert set(values) <= {b"1", b"2"}


def test_a_sink_opens_without_a_broker_and_says_at_which_address_there_is_none() -> None:
    (port,) = free_ports(1)
    with sink_to(f"127.0.0.1:{port}") as sink:
        for _ in range(2):
            with pytest.raises(SourceUnavailable, match=f"no Kafka at 127.0.0.1:{port}: Connection refused: start it"):
                sink.publish([Message("ratings", b"k", b"{}")])


def test_missing_topics_are_created_or_named(fresh_broker: Broker) -> None:
    with (
        sink_to(fresh_broker.bootstrap, kafka_create_topics=False) as sink,
        pytest.raises(SourceUnavailable, match="lacks the topics 'ratings'"),
    ):
        sink.publish([Message("ratings", b"k", b"{}")])
    with sink_to(fresh_broker.bootstrap) as sink:
        (sequence,) = sink.publish([Message("ratings", b"u1", b"{}")])
    assert sequence.topic == "ratings"
    listed = subprocess.run(["kcat", "-L", "-b", fresh_broker.bootstrap], capture_output=True, check=True, timeout=30)
    assert b'topic "ratings" with 12 partitions' in listed.stdout
    assert b'topic "dead-letters" with 3 partitions' in listed.stdout


def test_a_wrong_password_is_refused_and_never_shown(
    broker: Broker | Given, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(broker, Given):
        pytest.skip("a given broker has no listener with SASL that we know of")
    secret = tmp_path / "password"
    sasl = {"kafka_security": "SASL_PLAINTEXT", "kafka_username": USER, "kafka_password_file": str(secret)}
    secret.write_text(PASSWORD)
    with sink_to(broker.sasl_bootstrap, **sasl) as sink:
        assert sink.publish([Message("ratings", b"k", b"{}")])
    secret.write_text("not-the-secret")
    with (
        caplog.at_level(logging.DEBUG),
        sink_to(broker.sasl_bootstrap, **sasl) as sink,
        pytest.raises(NotAuthorised, match="refused 'alice' by SASL_PLAINTEXT, PLAIN") as caught,
    ):
        sink.publish([Message("ratings", b"k", b"{}")])
    assert "not-the-secret" not in f"{caught.value}{caplog.text}"


def test_a_closed_sink_publishes_nothing() -> None:
    sink = KafkaSink(KafkaSettings(kafka="127.0.0.1:9"))
    sink.close()
    sink.close()
    with pytest.raises(SourceUnavailable, match="is closed"):
        sink.publish([Message("ratings", b"k", b"{}")])


def test_settings_that_cannot_work_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(BadSettings, match="is not HOST:PORT"):
        KafkaSink(KafkaSettings(kafka="nowhere"))


def test_the_command_sends_nothing_to_a_topic_that_nobody_can_read(fresh: str, tmp_path: Path) -> None:
    rows = ["u1,i1,four,1600000000", *(f"u{n},i{n},4,{1_600_000_000 + n}" for n in range(5)), "u1,i1,4,soon"]
    (tmp_path / "some.csv").write_text("user,item,rating,timestamp\n" + "".join(f"{row}\n" for row in rows))
    with opened(fresh) as source:
        found = json.loads(invoke("publish", tmp_path / "some.csv", "--kafka", fresh, "--json").stdout)
        assert (found["published"], len(found["rejected"])) == (5, 2)
        assert {one["reason"].partition(":")[0] for one in found["rejected"]} == {"not_json"}
        sent = [json.loads(record.value or b"") for record in drained(source, 5)]
        assert {one["user_id"] for one in sent} == {f"u{n}" for n in range(5)}
