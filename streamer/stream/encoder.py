"""Records to batches: decodes records, maps ids to rows, drops duplicates and bad events, and adds to users' histories.

Everything that a learner can see depends only on the order of events, never on how they were split into batches: `lows`,
`highs` and `seen_counts` are as of each event. A catalogue record ends the batch, because its change must be visible to
the events after it and not to those before.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import cast

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, U64, Bool
from streamer.core.batch import CLICK, RATING, RETRACTED, Batch
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
from streamer.core.kinds import UNKNOWN_CODE, Kinds
from streamer.core.seed import event_keys, sequence_key
from streamer.core.settings import LearningSettings
from streamer.core.times import DAY_MS, EARLIEST_MS
from streamer.monitoring.clock import StreamClock
from streamer.monitoring.monitor import DUPLICATE, LEARNED, Monitor
from streamer.monitoring.scale import user_key
from streamer.monitoring.sessions import session_key
from streamer.stream.catalogue.items import Items
from streamer.stream.dead_letters import DeadLetters
from streamer.stream.decoder import Decoder
from streamer.stream.dedupe import Dedupe
from streamer.stream.history_rows import ERAS, EVENT, RETRACTION
from streamer.stream.removals import Removals
from streamer.stream.users import Users

_CATALOGUE_EVENTS = (ItemUpdate, UserUpdate, ItemRemoval, UserRemoval)
_ITEM_EVENTS = (ItemUpdate, ItemRemoval)
_ALL_CATALOGUE_EVENTS = set[type](_CATALOGUE_EVENTS)
_LEARNED = (Rating, Click)
_ALL_LEARNED = set[type](_LEARNED)


class Encoder:
    """Turns records into batches."""

    def __init__(
        self, settings: LearningSettings, users: Users, items: Items, dedupe: Dedupe, dead_letters: DeadLetters,
        monitor: Monitor, removals: Removals, user_ttl_days: float | None = None,
    ) -> None:  # fmt: skip
        self._decoder = Decoder(settings)
        self.check_rating = self._decoder.check_rating
        self._users, self._items, self._dedupe = users, items, dedupe
        self._dead_letters, self._monitor, self._removals = dead_letters, monitor, removals
        self.like_share, self.seed = settings.like_share, settings.seed
        self._kinds = Kinds(settings)
        self._click_window_ms = round(1000 * settings.click_window_s)
        self._sequences: dict[TopicPartition, tuple[int, int]] = {}  # random key, code in histories
        self.clock, self._period = StreamClock(), 0
        self._ttl_hours = round(24 * user_ttl_days) if user_ttl_days else 0
        users.forgets_old = self._ttl_hours > 0
        self.scale, self.sessions = monitor.scale, monitor.sessions

    def encode(self, records: Sequence[Record], commit: Callable[[], None]) -> Iterator[tuple[Sequence[Record], Batch]]:
        """Yield batches with the records that each covers: usually one, more at catalogue changes and if users outgrow the cache.

        Each batch must be learned, and its records entered in the ledger, before the next is requested, which may call `commit`.
        """
        events = self._decoder.decode(records, self._users.row_of, self._items.row_of)
        for start, stop in self._split(events):
            part, chosen = records[start:stop], events[start:stop]
            if type(chosen[0]) in _CATALOGUE_EVENTS:
                yield part, self._apply_catalogue(part, chosen)
            else:
                for cut in self._hours(part, chosen):
                    yield part[cut], self._batch(part[cut], chosen[cut], commit)

    def _hours(self, records: Sequence[Record], events: Sequence[Event | BadEvent | None]) -> Iterator[slice]:
        """Cuts where another hour of the stream's clock begins, if users are forgotten for their age: that happens between two events."""
        if not self._ttl_hours:
            yield slice(0, len(events))
            return
        learned = [k for k, event in enumerate(events) if type(event) in _ALL_LEARNED]
        chosen = cast(list[Rating | Click], [events[k] for k in learned])
        cuts = self.clock.crossings(happened_ms([records[k] for k in learned], chosen))
        ends = [*(learned[count - 1] + 1 for count in cuts), len(events)]
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if start < end:
                yield slice(start, end)

    def _split(self, events: Sequence[Event | BadEvent | None]) -> Iterator[tuple[int, int]]:
        start, users, capacity = 0, set[str](), self._users.capacity
        kinds = set(map(type, events))
        if kinds <= _ALL_CATALOGUE_EVENTS or (len(events) <= capacity and not kinds & _ALL_CATALOGUE_EVENTS):
            if events:
                yield 0, len(events)
            return
        for k, event in enumerate(events):
            changes = type(event) in _CATALOGUE_EVENTS
            user = event.user_id if isinstance(event, _LEARNED) else None
            full = user is not None and user not in users and len(users) >= capacity
            if k > start and (changes != (type(events[start]) in _CATALOGUE_EVENTS) or full):
                yield start, k
                start, users, capacity = k, set(), self._users.capacity
            if user is not None:
                users.add(user)
        if start < len(events):
            yield start, len(events)

    def _apply_catalogue(self, records: Sequence[Record], events: Sequence[Event | BadEvent | None]) -> Batch:
        self._items.rows([event.item_id for event in events if isinstance(event, _ITEM_EVENTS)])  # all at once
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
                    self.scale.forget(user_key(event.user_id))
                    self._removals.put(record, event.user_id)
            self._monitor.count(record.topic, LEARNED)
        self._users.resolve_waiting()
        return self._arrays([], [], np.zeros(0, dtype=np.int32))

    def _batch(
        self, records: Sequence[Record], events: Sequence[Event | BadEvent | None], commit: Callable[[], None]
    ) -> Batch:
        chosen = cast(list[Rating | Click], [event for event in events if type(event) in _ALL_LEARNED])
        if self._ttl_hours and chosen:
            self._users.forget_old(self.clock.period - self._ttl_hours)
        # Users come first: this may commit, and nothing of these records may be in that commit.
        rows = self._users.rows([event.user_id for event in chosen], commit)
        if self._ttl_hours:
            learned = [r for r, event in zip(records, events, strict=True) if type(event) in _ALL_LEARNED]
            self._period = self.clock.period  # that before these events: all of them are in it
            self.clock.advance(happened_ms(learned, chosen))
        if len(chosen) < len(records):
            for record, event in zip(records, events, strict=True):
                if isinstance(event, BadEvent):
                    self._dead_letters.put(record, event)
                    self._monitor.dead_letter(record.topic, event.reason)
            records = [record for record, event in zip(records, events, strict=True) if isinstance(event, _LEARNED)]
        named = [k for k, event in enumerate(chosen) if event.event_id]  # an empty id counts as none
        if named:
            fresh = self._not_duplicates(records, chosen, named)
            records = [record for record, new in zip(records, fresh, strict=True) if new]
            chosen, rows = [event for event, new in zip(chosen, fresh, strict=True) if new], rows[fresh]
        batch = self._arrays(records, chosen, rows)
        self._monitor.regret.note_expected(records, batch.kinds)  # not in the batch, as learners must not see it
        return batch

    def _not_duplicates(
        self, records: Sequence[Record], events: Sequence[Rating | Click], named: Sequence[int]
    ) -> Bool:
        fresh = np.ones(len(records), dtype=np.bool_)
        for at, group in groupby(named, lambda k: sequence_of(records[k])):
            positions = list(group)
            fresh[positions] = self._dedupe.admit(at, [events[k].event_id or "" for k in positions])
        for k in np.flatnonzero(~fresh).tolist():
            self._monitor.count(records[k].topic, DUPLICATE)
        return fresh

    def _arrays(self, records: Sequence[Record], events: Sequence[Rating | Click], users: I32) -> Batch:
        n = len(events)
        kinds, values, codes = self._kinds_and_values(events)
        items = self._items.rows([event.item_id for event in events])
        times_ms, unlikely = likely_times(records, events)
        self._monitor.unlikely_times.observe(unlikely, times_ms)
        rated = kinds == RATING
        found = self.scale.follow(rated, values, self._users.keys[users], items, self.like_share)
        clicks = np.where(rated, found.likes, values).astype(np.float32)
        keys, sequences, offsets = self._keys_and_origins(records)
        history = np.empty(n, dtype=EVENT)
        history["item"], history["value"], history["time_ms"] = items, values, times_ms
        history["kind"] = codes
        history["sequence"], history["offset"] = sequences, offsets
        asked = kinds.copy()
        eras = np.full(n, self.scale.conversions - len(found.changes), np.int64)  # of each event, the scale's number
        for change in found.changes:
            eras[change.at :] += 1
        remembered = self._users.remember(
            users, items, kinds, found.learned, clicks, times_ms, _timed(events), (eras % ERAS).astype(np.uint8), history,
            self._click_window_ms, self._period,
        )  # fmt: skip
        self._monitor.repeated_input.observe(remembered.repeated)
        begins = self.sessions.follow(users, kinds, remembered.pauses_ms, _sessions(events), self._users.history.head)
        self._monitor.count_changes(kinds, asked)
        seen = self._users.history.seen()
        profiles = self._users.profiles.arrays()
        return Batch(
            kinds, users, items, found.learned, clicks, times_ms, keys, found.lows, found.highs, remembered.seen_counts,
            seen, profiles=profiles, changes=found.changes, taken_back=remembered.taken_back, begins=begins,
        )  # fmt: skip

    def _kinds_and_values(self, events: Sequence[Rating | Click]) -> tuple[U8, F32, I32]:
        """RATING, CLICK or RETRACTED, the value (0 for the latter), and the code of the kind in histories, for each event."""
        n, ratings = len(events), [event.rating for event in events if type(event) is Rating]
        if len(ratings) == n:  # most batches have ratings only
            kinds, coded = np.full(n, RATING, np.uint8), np.zeros(n, np.int32)
            values = np.array(ratings, np.float32)  # NaN for None
        else:
            weights, codes = self._kinds.weights, self._kinds.codes
            kinds = np.array([RATING if type(e) is Rating else CLICK for e in events], np.uint8)
            values = np.array([e.rating if isinstance(e, Rating) else weights[e.kind] for e in events], np.float32)
            coded = np.array([0 if isinstance(e, Rating) else codes[e.kind] for e in events], np.int32)
            if (coded == UNKNOWN_CODE).any():
                unknown = [
                    e.kind
                    for e, code in zip(events, coded, strict=True)
                    if code == UNKNOWN_CODE and isinstance(e, Click)
                ]
                self._monitor.unknown_kinds.observe(unknown)
        withdrawn = np.isnan(values)
        kinds[withdrawn], values[withdrawn], coded[withdrawn] = RETRACTED, 0.0, RETRACTION
        return kinds, values, coded

    def _keys_and_origins(self, records: Sequence[Record]) -> tuple[U64, I32, I64]:
        """Each event's random key, the code of its sequence and its offset."""
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


def sequence_code(at: TopicPartition) -> int:
    """The code of a sequence in histories: the topic's number (0 for the embedded log) and the partition."""
    return (1 + TOPICS.index(at.topic) if at.topic in TOPICS else 0) << 20 | at.partition


def _sessions(events: Sequence[Rating | Click]) -> I64:
    """A hash of each event's session_id, 0 for none, (n,)."""
    names = [event.session_id if type(event) is Click else None for event in events]
    return np.array([*map(session_key, names)] if any(names) else np.zeros(len(events)), dtype=np.int64)


def _timed(events: Sequence[Rating | Click]) -> Bool:
    """Whether each event has a time of its own, (n,)."""
    return np.array([event.timestamp_ms is not None for event in events], np.bool_)


def happened_ms(records: Sequence[Record], events: Sequence[Rating | Click]) -> I64:
    """When each event happened, in ms: its own time, unless that is more than a day after it was appended."""
    return likely_times(records, events)[0]


def likely_times(records: Sequence[Record], events: Sequence[Rating | Click]) -> tuple[I64, Bool]:
    """When each event happened, in ms, and whether its own time is unlikely: before 1990, or replaced because it is in the future."""
    appended_ms = np.array([record.timestamp_ms for record in records], np.int64)
    own_ms = [event.timestamp_ms for event in events]
    if None in own_ms:
        own_ms = [r.timestamp_ms if ms is None else ms for r, ms in zip(records, own_ms, strict=True)]
    times_ms: I64 = np.array(own_ms, dtype=np.int64)
    future = (times_ms > appended_ms + DAY_MS) & (appended_ms >= 0)  # Kafka says -1 for a record without a time
    return np.where(future, appended_ms, times_ms), future | (times_ms < EARLIEST_MS)
