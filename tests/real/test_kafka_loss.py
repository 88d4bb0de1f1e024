"""Kafka as a source: records that are gone, and topics that would lose some, are refused with a sentence."""

import pytest
from kafka.structs import TopicPartition as Partition
from kafka_reading import admin, drained, opened, publish, ratings, refused, until

from streamer.core.errors import BadSettings, SourceLost, SourceUnavailable
from streamer.core.events import TopicPartition

# The library leaves sockets that could not connect to the garbage collector.
pytestmark = [pytest.mark.kafka, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]


def test_missing_topics_that_must_not_be_created_are_named(fresh: str) -> None:
    with pytest.raises(SourceUnavailable, match=r"lacks the topics 'ratings' \(12 partitions, cleanup.policy=delete"):
        refused(fresh, kafka_create_topics=False)
    with pytest.raises(BadSettings, match=r"replication factor 3: .*change kafka_replication"):
        refused(fresh, kafka_replication=3)


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
