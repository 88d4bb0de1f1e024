"""Records as rows of the archive: exactly those that the encoder accepts."""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np

from streamer.core.errors import BadEvent
from streamer.core.events import (
    CATALOGUE_TOPICS,
    Click,
    Event,
    ItemRemoval,
    ItemUpdate,
    Rating,
    Record,
    TopicPartition,
    UserRemoval,
    UserUpdate,
    payload,
    sequence_of,
)
from streamer.core.settings import Settings
from streamer.monitoring.regret import FIELD, expected
from streamer.stream.decoder import Decoder
from streamer.stream.dedupe import Dedupe
from streamer.stream.encoder import happened_ms

_EVENTS = {Rating, Click}
_NOT_ARCHIVED = {BadEvent, type(None)}  # bad events, and erased records of the log
_RATING, _CLICK = Rating.__struct_fields__, Click.__struct_fields__


class Rows:
    """Rows not yet written, by topic. Memory: some 100 bytes a row."""

    def __init__(self, settings: Settings) -> None:
        self._decoder = Decoder(settings.learning)
        self._dedupe = Dedupe(settings.state.dedupe_events)
        self._rows: dict[str, list[Any]] = {}
        self.forgotten = set[str]()  # users whose earlier rows must be removed
        self.records = 0  # records added since `clear`, accepted or not

    def remember(self, event_ids: Mapping[TopicPartition, Sequence[str]]) -> None:
        """Take event_ids that were archived before, oldest first, to recognise duplicates."""
        for at, named in event_ids.items():
            self._dedupe.admit(at, named)

    def by_topic(self) -> dict[str, Any]:
        """The rows as tables for parquet.py, by topic."""
        from streamer.storage.archive import parquet

        return {topic: parquet.concatenate(parts) for topic, parts in self._rows.items()}

    def clear(self) -> None:
        """Drop all rows after they were written; event_ids stay known."""
        self._rows, self.forgotten, self.records = {}, set(), 0

    def add(self, records: Sequence[Record]) -> None:
        """Add the next records, in order. Cost: about 1.3 us a record."""
        decoded = self._decoder.decode(records, {}, {})
        start = 0
        runs = groupby(type(event) is UserRemoval for event in decoded) if UserRemoval in set(map(type, decoded)) else [(False, records)]  # fmt: skip
        for removal, run in runs:
            stop = start + sum(1 for _ in run)
            if removal:
                self._forget({event.user_id for event in decoded[start:stop] if isinstance(event, UserRemoval)})
            else:
                self._add(records[start:stop], decoded[start:stop])
            start = stop
        self.records += len(records)

    def _forget(self, user_ids: Collection[str]) -> None:
        from streamer.storage.archive import parquet

        self.forgotten.update(user_ids)
        self._rows = {
            topic: [parquet.without_users(part, user_ids) for part in parts] for topic, parts in self._rows.items()
        }

    def _add(self, records: Sequence[Record], decoded: Sequence[Event | BadEvent | None]) -> None:
        from streamer.storage.archive import parquet

        duplicates, has_rejects = self._duplicates(records, decoded), not _NOT_ARCHIVED.isdisjoint(map(type, decoded))
        topics = dict.fromkeys([record.topic for record in records])
        for topic in topics:
            chosen, events = records, decoded
            if duplicates or has_rejects or len(topics) > 1:
                positions = [k for k, record in enumerate(records) if record.topic == topic and k not in duplicates]
                positions = [k for k in positions if type(decoded[k]) not in _NOT_ARCHIVED]
                chosen, events = [records[k] for k in positions], [decoded[k] for k in positions]
            if events:
                columns = _catalogue_columns if topic in CATALOGUE_TOPICS else _event_columns
                self._rows.setdefault(topic, []).append(parquet.rows_of(columns(chosen, events)))

    def _duplicates(self, records: Sequence[Record], decoded: Sequence[Any]) -> set[int]:
        """Indices of events that are duplicates, found as the encoder finds them."""
        if set(map(type, decoded)) <= _EVENTS:
            named = [k for k, event in enumerate(decoded) if event.event_id]
        else:
            named = [k for k, event in enumerate(decoded) if type(event) in _EVENTS and event.event_id]
        found = set[int]()
        for at, group in groupby(named, lambda k: sequence_of(records[k])):
            positions = np.array(list(group))
            fresh = self._dedupe.admit(at, [decoded[k].event_id for k in positions.tolist()])
            found.update(positions[~fresh].tolist())
        return found


def _event_columns(records: Sequence[Record], events: Sequence[Any]) -> dict[str, Any]:
    names = _CLICK if type(events[0]) is Click else _RATING
    values = dict(zip(names, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True))
    columns = _origin(records) | values | {"timestamp_ms": happened_ms(records, events)}
    if not all(values["event_id"]):
        columns["event_id"] = [event_id or None for event_id in values["event_id"]]  # an empty id counts as none
    if names is _RATING and FIELD in b"".join([record.value or b"" for record in records]):
        truths = [expected(record.value or b"") for record in records]
        columns["expected"] = [None if value != value else value for value in truths]
    return columns


def _origin(records: Sequence[Record]) -> dict[str, Any]:
    logged = records[0].partition < 0  # the embedded log: one sequence
    partitions = np.full(len(records), -1, np.int32) if logged else np.array([record.partition for record in records], np.int32)  # fmt: skip
    return {
        "partition": partitions,
        "offset": np.array([record.offset for record in records], np.int64),
        "appended_ms": np.array([record.timestamp_ms for record in records], np.int64),
    }


def _catalogue_columns(records: Sequence[Record], events: Sequence[Any]) -> dict[str, Any]:
    origin = _origin(records)
    return origin | {
        "user_id": [event.user_id if isinstance(event, UserUpdate) else None for event in events],
        "item_id": [event.item_id if isinstance(event, ItemUpdate | ItemRemoval) else None for event in events],
        "timestamp_ms": origin["appended_ms"],
        "value": [None if record.value is None else payload(record.value).decode() for record in records],
    }
