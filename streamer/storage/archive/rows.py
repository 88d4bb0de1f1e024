"""What of the records goes into the archive, as rows: what the encoder accepts, found in the same way."""

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
    sequence_of,
)
from streamer.core.settings import Settings
from streamer.monitoring.regret import FIELD, expected
from streamer.stream.decoder import Decoder
from streamer.stream.dedupe import Dedupe
from streamer.stream.encoder import happened_ms

_LEARNED = {Rating, Click}
_NOTHING = {BadEvent, type(None)}  # what cannot be archived: a bad event, or none any more
_RATING, _CLICK = Rating.__struct_fields__, Click.__struct_fields__


class Rows:
    """Rows by topic that are not yet written. Memory: some 100 bytes a row."""

    def __init__(self, settings: Settings) -> None:
        self._decoder = Decoder(settings.learning)
        self._dedupe = Dedupe(settings.state.dedupe_events)
        self._rows: dict[str, list[Any]] = {}
        self.forgotten = set[str]()  # users whose earlier rows are to go
        self.records = 0  # taken up since `clear`, accepted or not

    def remember(self, event_ids: Mapping[TopicPartition, Sequence[str]]) -> None:
        """Event_ids that were archived before, oldest first."""
        for at, named in event_ids.items():
            self._dedupe.fresh(at, named)

    def by_topic(self) -> dict[str, Any]:
        """Tables as parquet.py writes them."""
        from streamer.storage.archive import parquet

        return {topic: parquet.joined(parts) for topic, parts in self._rows.items()}

    def clear(self) -> None:
        """Begin anew; event_ids stay known."""
        self._rows, self.forgotten, self.records = {}, set(), 0

    def add(self, records: Sequence[Record]) -> None:
        """Take up records, in order. Cost: about 1.3 us a record."""
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
        self._rows = {topic: [parquet.without(part, user_ids) for part in parts] for topic, parts in self._rows.items()}

    def _add(self, records: Sequence[Record], decoded: Sequence[Event | BadEvent | None]) -> None:
        from streamer.storage.archive import parquet

        duplicates, odd = self._duplicates(records, decoded), not _NOTHING.isdisjoint(map(type, decoded))
        topics = dict.fromkeys([record.topic for record in records])
        for topic in topics:
            chosen, events = records, decoded
            if duplicates or odd or len(topics) > 1:
                spots = [k for k, record in enumerate(records) if record.topic == topic and k not in duplicates]
                spots = [k for k in spots if type(decoded[k]) not in _NOTHING]
                chosen, events = [records[k] for k in spots], [decoded[k] for k in spots]
            if events:
                columns = _catalogue_columns if topic in CATALOGUE_TOPICS else _event_columns
                self._rows.setdefault(topic, []).append(parquet.rows_of(columns(chosen, events)))

    def _duplicates(self, records: Sequence[Record], decoded: Sequence[Any]) -> set[int]:
        """Which of the events were there before, as Encoder finds them."""
        if set(map(type, decoded)) <= _LEARNED:
            named = [k for k, event in enumerate(decoded) if event.event_id]
        else:
            named = [k for k, event in enumerate(decoded) if type(event) in _LEARNED and event.event_id]
        found = set[int]()
        for at, group in groupby(named, lambda k: sequence_of(records[k])):
            spots = np.array(list(group))
            fresh = self._dedupe.fresh(at, [decoded[k].event_id for k in spots.tolist()])
            found.update(spots[~fresh].tolist())
        return found


def _event_columns(records: Sequence[Record], events: Sequence[Any]) -> dict[str, Any]:
    names = _CLICK if type(events[0]) is Click else _RATING
    said = dict(zip(names, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True))
    columns = _origin(records) | said | {"timestamp_ms": happened_ms(records, events)}
    if not all(said["event_id"]):
        columns["event_id"] = [event_id or None for event_id in said["event_id"]]  # an empty one names nothing
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
        "value": [None if record.value is None else record.value.decode() for record in records],
    }
