"""Records to batches: decode, give ids their rows, leave out duplicates and bad events, and remember who saw what.

Everything that a learner could see is a function of the order of events alone, never of how the log was cut: `lows`,
`highs` and `seen_counts` are as of each event. A catalogue record cuts the batch, because what it changes is to be seen
by the events after it and not by those before.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import cast

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, U64, Bool
from streamer.core.batch import CLICK, RATING, Batch
from streamer.core.errors import BadEvent
from streamer.core.events import (
    LOG,
    TOPICS,
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
from streamer.core.protocols import Row, StateStore
from streamer.core.seed import event_keys, sequence_key
from streamer.core.settings import LearningSettings
from streamer.monitoring.monitor import DUPLICATE, LEARNED, Monitor
from streamer.stream.catalogue.items import Items
from streamer.stream.dead_letters import DeadLetters
from streamer.stream.decoder import Decoder
from streamer.stream.dedupe import Dedupe
from streamer.stream.history import EVENT
from streamer.stream.removals import Removals
from streamer.stream.users import Users

_CHANGES = (ItemUpdate, UserUpdate, ItemRemoval, UserRemoval)
_OF_ITEMS = (ItemUpdate, ItemRemoval)
_ALL_CHANGES = set[type](_CHANGES)
_LEARNED = (Rating, Click)
_ALL_LEARNED = set[type](_LEARNED)
DAY_MS = 86_400_000
_RANGE = struct.Struct("<dd")


class Encoder:
    """Records in, batches out; protocols.Persistent for the range of ratings seen."""

    def __init__(
        self, settings: LearningSettings, users: Users, items: Items, dedupe: Dedupe, dead_letters: DeadLetters,
        monitor: Monitor, removals: Removals,
    ) -> None:  # fmt: skip
        self._decoder = Decoder(settings)
        self.check_rating = self._decoder.check_rating
        self._users, self._items, self._dedupe = users, items, dedupe
        self._dead_letters, self._monitor, self._receipts = dead_letters, monitor, removals
        self.like_share, self.seed = settings.like_share, settings.seed
        self._weights = settings.kinds
        self._kind_codes = {kind: 1 + n for n, kind in enumerate(sorted(settings.kinds))}
        self._sequences: dict[TopicPartition, tuple[int, int]] = {}  # key of randomness, code in histories
        self.low, self.high = np.inf, -np.inf  # of the ratings so far
        self._committed_range = (np.inf, -np.inf)

    def encode(self, records: Sequence[Record], commit: Callable[[], None]) -> Iterator[tuple[Sequence[Record], Batch]]:
        """Batches with the records that each covers, one as a rule; more at catalogue changes, and when the users outgrow the cache.

        Each must be learned and its records booked before the next is asked for; `commit` may be called in between.
        """
        events = self._decoder.decode(records, self._users.row_of, self._items.row_of)
        for start, stop in self._cuts(events):
            part, chosen = records[start:stop], events[start:stop]
            if type(chosen[0]) in _CHANGES:
                yield part, self._change(part, chosen)
            else:
                yield part, self._batch(part, chosen, commit)

    def _cuts(self, events: Sequence[Event | BadEvent | None]) -> Iterator[tuple[int, int]]:
        start, users, capacity = 0, set[str](), self._users.capacity
        kinds = set(map(type, events))
        if kinds <= _ALL_CHANGES or (len(events) <= capacity and not kinds & _ALL_CHANGES):
            if events:
                yield 0, len(events)
            return
        for k, event in enumerate(events):
            changes = type(event) in _CHANGES
            user = event.user_id if isinstance(event, _LEARNED) else None
            full = user is not None and user not in users and len(users) >= capacity
            if k > start and (changes != (type(events[start]) in _CHANGES) or full):
                yield start, k
                start, users, capacity = k, set(), self._users.capacity
            if user is not None:
                users.add(user)
        if start < len(events):
            yield start, len(events)

    def _change(self, records: Sequence[Record], events: Sequence[Event | BadEvent | None]) -> Batch:
        self._items.rows([event.item_id for event in events if isinstance(event, _OF_ITEMS)])  # all at once
        for record, event in zip(records, events, strict=True):
            match event:
                case ItemUpdate():
                    self._items.put(event)
                case ItemRemoval():
                    self._items.remove(event.item_id)
                case UserUpdate():
                    self._users.put(event)
                case UserRemoval():
                    self._users.forget(event.user_id)
                    self._receipts.put(record, event.user_id)
            self._monitor.count(record.topic, LEARNED)
        self._users.catch_up()
        return self._arrays([], [], np.zeros(0, dtype=np.int32))

    def _batch(
        self, records: Sequence[Record], events: Sequence[Event | BadEvent | None], commit: Callable[[], None]
    ) -> Batch:
        chosen = cast(list[Rating | Click], [event for event in events if type(event) in _ALL_LEARNED])
        # Users first: it may commit, and nothing of these records may be in that commit.
        rows = self._users.rows([event.user_id for event in chosen], commit)
        if len(chosen) < len(records):
            for record, event in zip(records, events, strict=True):
                if isinstance(event, BadEvent):
                    self._dead_letters.put(record, event)
                    self._monitor.dead_letter(record.topic, event.reason)
            records = [record for record, event in zip(records, events, strict=True) if isinstance(event, _LEARNED)]
        named = [k for k, event in enumerate(chosen) if event.event_id]  # an empty one names nothing
        if named:
            fresh = self._fresh(records, chosen, named)
            records = [record for record, new in zip(records, fresh, strict=True) if new]
            chosen, rows = [event for event, new in zip(chosen, fresh, strict=True) if new], rows[fresh]
        self._monitor.regret.expect(records, chosen)  # not in the batch: no learner may see it
        return self._arrays(records, chosen, rows)

    def _fresh(self, records: Sequence[Record], events: Sequence[Rating | Click], named: Sequence[int]) -> Bool:
        fresh = np.ones(len(records), dtype=np.bool_)
        for at, group in groupby(named, lambda k: sequence_of(records[k])):
            spots = list(group)
            fresh[spots] = self._dedupe.fresh(at, [events[k].event_id or "" for k in spots])
        for k in np.flatnonzero(~fresh).tolist():
            self._monitor.count(records[k].topic, DUPLICATE)
        return fresh

    def _arrays(self, records: Sequence[Record], events: Sequence[Rating | Click], users: I32) -> Batch:
        n = len(events)
        kinds, values, codes = self._said(events)
        items = self._items.rows([event.item_id for event in events])
        times_ms = happened_ms(records, events)
        lows, highs, clicks = self._likes(kinds == RATING, values)
        keys, sequences, offsets = self._origins(records)
        history = np.empty(n, dtype=EVENT)
        history["item"], history["value"], history["time_ms"] = items, values, times_ms
        history["kind"] = codes
        history["sequence"], history["offset"] = sequences, offsets
        seen_counts, again = self._users.remember(users, items, clicks, times_ms, history)
        self._monitor.refeeding.observe(again)
        seen = self._users.history.seen()
        said = self._users.profiles.said()
        return Batch(kinds, users, items, values, clicks, times_ms, keys, lows, highs, seen_counts, seen, profiles=said)

    def _said(self, events: Sequence[Rating | Click]) -> tuple[U8, F32, I32]:
        """What each event is, its value, and its kind as histories keep it: 0 for ratings."""
        n, ratings = len(events), [event.rating for event in events if type(event) is Rating]
        if len(ratings) == n:  # most batches are of one kind
            return np.full(n, RATING, np.uint8), np.array(ratings, np.float32), np.zeros(n, np.int32)
        weights, codes = self._weights, self._kind_codes
        kinds = np.array([RATING if type(e) is Rating else CLICK for e in events], np.uint8)
        values = np.array([e.rating if isinstance(e, Rating) else weights[e.kind] for e in events], np.float32)
        return kinds, values, np.array([0 if isinstance(e, Rating) else codes[e.kind] for e in events], np.int32)

    def _likes(self, rated: Bool, values: F32) -> tuple[F32, F32, F32]:
        """The range of ratings before each event, and its weight as a click."""
        ratings = values.astype(np.float64)
        lows = np.minimum.accumulate(np.concatenate([[self.low], np.where(rated, ratings, np.inf)]))
        highs = np.maximum.accumulate(np.concatenate([[self.high], np.where(rated, ratings, -np.inf)]))
        likes = (highs[1:] > 0) & (ratings >= self.like_share * highs[1:])
        clicks = np.where(rated, likes.astype(np.float32), values)
        self.low, self.high = float(lows[-1]), float(highs[-1])
        before_low = np.where(np.isfinite(lows[:-1]), lows[:-1], -np.inf)
        before_high = np.where(np.isfinite(highs[:-1]), highs[:-1], np.inf)
        return before_low.astype(np.float32), before_high.astype(np.float32), clicks.astype(np.float32)

    def _origins(self, records: Sequence[Record]) -> tuple[U64, I32, I64]:
        """What each event's randomness and its place in a history come from: key, sequence code, offset."""
        offsets = np.array([record.offset for record in records], np.int64)
        bases, codes = np.empty(len(records), dtype=np.uint64), np.empty(len(records), dtype=np.int32)
        start, logged = 0, bool(records) and records[0].partition < 0  # the embedded log: one sequence
        for at, group in [(LOG, records)] if logged else groupby(records, sequence_of):
            stop = start + (len(records) if logged else sum(1 for _ in group))
            if at not in self._sequences:
                self._sequences[at] = sequence_key(self.seed, at), sequence_code(at)
            bases[start:stop], codes[start:stop] = self._sequences[at]
            start = stop
        return event_keys(bases, offsets), codes, offsets

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        (value,) = store.read("stream", [b"range"])
        if value is not None:
            self.low, self.high = self._committed_range = _RANGE.unpack(value)

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        if (self.low, self.high) == self._committed_range:
            return []
        return [Row("stream", b"range", _RANGE.pack(self.low, self.high))]

    def committed(self) -> None:
        """See protocols.Persistent."""
        self._committed_range = (self.low, self.high)


def sequence_code(at: TopicPartition) -> int:
    """A sequence as histories keep it: the topic's number (0: the embedded log) and the partition."""
    return (1 + TOPICS.index(at.topic) if at.topic in TOPICS else 0) << 20 | at.partition


def happened_ms(records: Sequence[Record], events: Sequence[Rating | Click]) -> I64:
    """When each event happened: by itself, but never more than a day after it was appended."""
    appended_ms = np.array([record.timestamp_ms for record in records], np.int64)
    said_ms = [event.timestamp_ms for event in events]
    if None in said_ms:
        said_ms = [r.timestamp_ms if ms is None else ms for r, ms in zip(records, said_ms, strict=True)]
    times_ms: I64 = np.array(said_ms, dtype=np.int64)
    unlikely = (times_ms > appended_ms + DAY_MS) & (appended_ms >= 0)  # Kafka says -1 for a record without a time
    return np.where(unlikely, appended_ms, times_ms)
