"""Events, messages and records, and the JSON Schemas of the events."""

import json
import tomllib
from pathlib import Path

import msgspec
import pytest
from bad_events import BAD, GOOD
from jsonschema import Draft202012Validator

from streamer.core.errors import Reason
from streamer.core.events import (
    LOG,
    TOPICS,
    Click,
    Event,
    ItemRemoval,
    ItemUpdate,
    Message,
    Rating,
    Record,
    TopicPartition,
    UserRemoval,
    UserUpdate,
    json_schema,
    message,
    payload,
    sequence_of,
)
from streamer.core.settings import LearningSettings
from streamer.schemas.generate import FOLDER, text
from streamer.stream.decoder import Decoder

# What a schema cannot say: bytes, settings, and what a float64 holds.
BEYOND_A_SCHEMA = {
    "an id of 129 letters in 257 bytes", "above the highest rating", "below the lowest rating",
    "one byte too many", "1e999", "401 digits", "an id of 300 digits", "a word as a time",
    "a number in scientific notation as an id", "a whole number as an id that no float holds",
}  # fmt: skip


@pytest.mark.parametrize("topic", TOPICS)
def test_the_committed_schemas_are_current(topic: str) -> None:
    committed = (FOLDER / f"{topic}.json").read_text(encoding="utf-8")
    assert committed == text(topic), "run: make generate"
    Draft202012Validator.check_schema(json.loads(committed))


def test_there_is_a_schema_of_each_topic_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(TOPICS)
    with pytest.raises(KeyError):
        json_schema("likes")


def schema(topic: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((FOLDER / f"{topic}.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize("case", GOOD)
def test_the_schema_accepts_what_the_decoder_accepts(case: str) -> None:
    topic, value, _ = GOOD[case]
    schema(topic).validate(json.loads(payload(value)))


@pytest.mark.parametrize("case", [name for name in BAD if name not in BEYOND_A_SCHEMA])
def test_the_schema_refuses_what_the_decoder_refuses(case: str) -> None:
    topic, value, reason = BAD[case]
    if reason in (
        Reason.NOT_JSON,
        Reason.NO_SCHEMA,
        Reason.UNKNOWN_TOPIC,
    ):  # there is nothing that a schema could be asked about
        return
    assert not schema(topic).is_valid(json.loads(value))


EVENTS: list[tuple[Event, Message]] = [
    (Rating("u1", "i9", 4.5), Message("ratings", b"u1", b'{"user_id":"u1","item_id":"i9","rating":4.5}')),
    (Rating("u1", "i9", None), Message("ratings", b"u1", b'{"user_id":"u1","item_id":"i9","rating":null}')),
    (
        Click("ü", "i9", "view", 5, event_id="e"),
        Message("clicks", "ü".encode(), '{"user_id":"ü","item_id":"i9","kind":"view","timestamp_ms":5,"event_id":"e"}'.encode()),
    ),
    (ItemUpdate("i9", "T"), Message("items", b"i9", b'{"item_id":"i9","title":"T"}')),
    (UserUpdate("u1", same_as="a"), Message("users", b"u1", b'{"user_id":"u1","same_as":"a"}')),
    (ItemRemoval("i9"), Message("items", b"i9", None)),
    (UserRemoval("u1"), Message("users", b"u1", None)),
]  # fmt: skip


@pytest.mark.parametrize(("event", "sent"), EVENTS)
def test_an_event_is_keyed_and_decodes_to_itself(event: Event, sent: Message) -> None:
    assert message(event) == sent
    assert Decoder(LearningSettings()).parse(sent.topic, sent.key, sent.value) == event


def test_a_record_below_partition_0_belongs_to_the_embedded_log() -> None:
    assert sequence_of(Record("ratings", -1, 7, 0, None, None)) == LOG
    assert sequence_of(Record("ratings", 3, 7, 0, None, None)) == TopicPartition("ratings", 3)


def test_records_survive_their_encoding() -> None:
    record = Record("ratings", -1, 7, 1_700_000_000_000, b"\xff\0", None)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=Record) == record


def test_the_schemas_are_installed_with_the_package() -> None:
    setup = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]
    assert "streamer.schemas" in setup["packages"]
    assert setup["package-data"]["streamer.schemas"] == ["*.json"]
