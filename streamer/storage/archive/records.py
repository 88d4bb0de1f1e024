"""Rows of the archive as the messages and records that they were made from: the same events, in their shortest JSON."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from streamer.core.arrays import I64, U64
from streamer.core.errors import DamagedFile
from streamer.core.events import (
    CATALOGUE_TOPICS,
    LOG,
    TOPICS,
    USERS,
    Click,
    Message,
    Rating,
    Record,
    TopicPartition,
    message,
)
from streamer.core.seed import event_keys, sequence_key
from streamer.storage.archive import parquet
from streamer.storage.archive.manifest import Manifest

EVENT_COLUMNS = ("user_id", "item_id", "kind", "rating", "timestamp_ms", "event_id", "session_id", "recommendation_id", "expected", "appended_ms")  # fmt: skip
_COLUMNS = (*EVENT_COLUMNS, "value", "offset", "partition")
_CHUNK_ROWS = 10_000  # rows that are Python objects at a time


def event_message(
    user_id: str, item_id: str, kind: str | None, rating: float | None, time_ms: int, event_id: str | None,
    session_id: str | None, recommendation_id: str | None, expected: float | None, appended_ms: int,
) -> Message:  # fmt: skip
    """The message of a row: a click if it has a kind, otherwise a rating, withdrawn if it is null or NaN. Cost: about 1 us."""
    if kind is not None:  # one with the time of its record had none of its own, which matters for clicks made again
        own_ms = None if time_ms == appended_ms else time_ms
        sent = message(Click(user_id, item_id, kind, own_ms, event_id, session_id, recommendation_id))
        return sent if own_ms is not None else msgspec.structs.replace(sent, timestamp_ms=time_ms)
    said = None if rating is None or rating != rating else rating
    sent = message(Rating(user_id, item_id, said, time_ms, event_id))
    if expected is not None and sent.value is not None:
        return Message(sent.topic, sent.key, sent.value[:-1] + b',"expected":%r}' % expected)
    return sent


def catalogue_message(topic: str, user_id: str | None, item_id: str | None, value: str | None) -> Message:
    """The message of a row of the catalogue or of a profile; no value: a removal."""
    key = (user_id if topic == USERS else item_id) or ""
    return Message(topic, key.encode(), None if value is None else value.encode())


def records(folder: Path, manifest: Manifest, first: int, stop: int, damaged: dict[str, str]) -> Iterator[Record]:
    """See `Archive.records`; `damaged` gets the path of each file that was left out, with what is wrong with it."""
    parts, topic_of = [], []
    for file in manifest.files:
        low, high = file.spans.get(-1, (stop, first)) if file.spans else (first, stop)
        if high < first or low >= stop:
            continue
        try:
            rows = parquet.read(folder, file, _COLUMNS, manifest.forgotten_in(file))
        except DamagedFile as error:
            damaged[file.path] = str(error)
            continue
        parts.append(parquet.between(rows, -1, first, stop))
        topic_of.append(np.full(parts[-1].num_rows, TOPICS.index(file.topic)))
    if not parts:
        return
    rows, topics = parquet.concatenate(parts), np.concatenate(topic_of)
    order = np.argsort(parquet.numbers(rows, "offset"), kind="stable")
    for start in range(0, len(order), _CHUNK_ROWS):
        chosen = order[start : start + _CHUNK_ROWS]
        columns = [parquet.select(rows, name, chosen).to_pylist() for name in _COLUMNS]
        for topic, row in zip([TOPICS[n] for n in topics[chosen].tolist()], zip(*columns, strict=True), strict=True):
            yield _record(topic, row)


def _record(topic: str, row: tuple[Any, ...]) -> Record:
    *event, value, offset, partition = row
    catalogue = topic in CATALOGUE_TOPICS
    sent = catalogue_message(topic, event[0], event[1], value) if catalogue else event_message(*event)
    return Record(topic, partition, offset, event[-1], sent.key, sent.value)


def event_keys_of(seed: int, topics: Any, partitions: Any, offsets: I64) -> U64:
    """The events' random keys, as the encoder makes them from (seed, sequence, offset)."""
    bases = np.empty(len(offsets), np.uint64)
    codes = np.where(partitions < 0, -1, topics.astype(np.int64) << 32 | np.maximum(partitions, 0))
    for code in np.unique(codes).tolist():
        at = LOG if code < 0 else TopicPartition(TOPICS[code >> 32], code & 0xFFFFFFFF)
        bases[codes == code] = np.uint64(sequence_key(seed, at))
    return event_keys(bases, offsets)
