"""`streamer validate TOPIC --kafka`: a topic is looked at like a file, and nothing on the broker changes."""

import json
from pathlib import Path

import pytest
from broker import Broker
from commands import invoke
from kafka import KafkaProducer
from kafka_reading import admin, publish

from streamer.core.events import Message

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

EVENT = b'{"user_id": %d, "item_id": %d.0, "rating": "%d", "timestamp": "2022-06-24 21:20:%02d"}'
PREFIX, AVRO = b"\0\0\0\0\x11", b"\x04u1\x04i9\0\0\0\0\0\0\x12@"


def test_a_topic_is_validated_like_a_file(fresh_broker: Broker) -> None:
    at = fresh_broker.bootstrap
    values = [EVENT % (n % 3, n % 5, 1 + n % 5, n) for n in range(30)]
    publish(at, [Message("ratings", b"%d" % n, value if n % 2 else PREFIX + value) for n, value in enumerate(values)])
    producer = KafkaProducer(bootstrap_servers=at, compression_type="gzip")
    producer.send("ratings", key=b"u1", value=PREFIX + AVRO, headers=[("content-type", b"application/avro")])
    producer.close()
    found = json.loads(invoke("validate", "ratings", "--kafka", at, "--json").stdout)
    assert (found["events"], found["ratings"], found["users"], found["items"]) == (31, 30, 3, 5)
    assert (found["rating_min"], found["rating_max"], found["columns"]) == (1.0, 5.0, {})
    assert (found["earliest"], found["latest"]) == ("2022-06-24T21:20:00+00:00", "2022-06-24T21:20:29+00:00")
    assert len(found["rejected"]) == 1
    assert "1 of 31 events cannot be used (no_schema)" in found["rejected"][0]
    assert "by schema 17 of a schema registry: have the producer send JSON" in found["rejected"][0]
    few = json.loads(invoke("validate", "ratings", "--kafka", at, "--max-events", "7", "--json").stdout)
    assert few["events"] == 7


def test_an_empty_or_missing_topic_is_said_and_not_created(fresh_broker: Broker, tmp_path: Path) -> None:
    at = fresh_broker.bootstrap
    assert "'clicks'" in invoke("validate", "clicks", "--kafka", at, code=1).stderr
    with admin(at) as client:
        assert "clicks" not in client.list_topics()
    publish(at, [Message("ratings", b"u", b"{}")])
    assert "the topic 'clicks' has no records" in invoke("validate", "clicks", "--kafka", at, code=1).stderr
    assert "one of ratings, clicks, items, users" in invoke("validate", str(tmp_path), "--kafka", at, code=2).stderr
