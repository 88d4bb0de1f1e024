"""Events for one learner without an engine: rows for ids, the ring of seen items, and batches of any size.

`Feed` does what the engine does around a learner, as simply as possible, so that a check can compare different batch
sizes, restarts or row numbers for the same events. It returns state by id, as the store keeps it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import (
    CATEGORIES,
    CLICK,
    MEMBERSHIPS,
    RATING,
    REPEATED,
    REPLACED,
    RETRACTED,
    Batch,
    Profiles,
    Seen,
    TakenBack,
    UserView,
    nothing_taken_back,
)
from streamer.core.events import LOG
from streamer.core.protocols import Categorised, Composed, Kind, OnlineLearner, Rebuilt
from streamer.core.seed import event_keys, id_key, sequence_key
from streamer.core.tables import Table
from streamer.models import learner as made
from streamer.stream.catalogue.category_sets import CategorySets
from streamer.stream.learners import Learners

PAGE = 8  # items on a page of the ring of seen items: small, so that rings wrap within a check
WINDOW = 24  # number of last seen items that count as seen
LONGEST = 1000  # largest number of events in a batch
EXPERT = "bias"  # the champion for ratings in composed learners


class FeedEvent(NamedTuple):
    """One event: a rating (`kind` RATING, `value` the rating) or a click (`value` its weight).

    With the kind REPLACED a rating takes the place of the user's last one of the item, with RETRACTED that one is withdrawn.
    """

    user_id: str
    item_id: str
    kind: int
    value: float


def rating(user_id: str, item_id: str, value: float) -> FeedEvent:
    """A rating; 4 and more also count as a click."""
    return FeedEvent(user_id, item_id, RATING, value)


def click(user_id: str, item_id: str, weight: float = 1.0) -> FeedEvent:
    """A click with this weight; a weight below 0 is a dislike."""
    return FeedEvent(user_id, item_id, CLICK, weight)


def sample_events(count: int, *, users: int = 40, items: int = 60, seed: int = 1) -> list[FeedEvent]:
    """A small simulated stream: ratings from .5 to 5 that follow hidden tastes, one event in three a click, some of them dislikes.

    New users and items appear over the whole stream, and some are far more frequent than others.
    """
    random = np.random.default_rng(seed)
    taste, kind_of_item = random.normal(size=(users, 2)), random.normal(size=(items, 2))
    events = []
    for n in range(count):
        share = 0.2 + 0.8 * n / count
        u, i = (int(side * share * random.random() ** 2) for side in (users, items))
        who = f"u{u}s" if u % 7 == 5 else f"u{u}"  # users whose id ends with s have a profile
        liking = 3.0 + 0.7 * float(taste[u] @ kind_of_item[i]) + random.normal(0, 0.5)
        if random.random() < 1 / 3:
            events.append(click(who, f"i{i}", float(random.choice([0.2, 1.0, 4.0, -1.0]))))
        else:
            events.append(rating(who, f"i{i}", float(np.clip(round(2 * liking) / 2, 0.5, 5.0))))
    return events


def with_changes(events: Sequence[FeedEvent]) -> list[FeedEvent]:
    """The events, with each rating of a pair that was rated before in its place; one in five withdraws it instead."""
    rated, found = set[tuple[str, str]](), list[FeedEvent]()
    for n, event in enumerate(events):
        pair = event.user_id, event.item_id
        kind = event.kind
        if kind == RATING and pair in rated:
            kind = REPLACED if n % 5 else RETRACTED
        if event.kind == RATING:
            (rated.discard if kind == RETRACTED else rated.add)(pair)
        found.append(event._replace(kind=kind))
    return found


class Ring:
    """The ring of seen items of every user row; see `streamer.core.batch.Seen`."""

    def __init__(self, users: int, *, page: int = PAGE, window: int = WINDOW, longest: int = LONGEST) -> None:
        """For `users` rows; a ring has room for the window and the items of a batch of `longest` events."""
        self.window, self.page = window, page
        self.ring = -(-(window + longest) // page) * page
        self.pages: I32 = np.full((16, page), -1, dtype=np.int32)
        self.page_of: I32 = np.full((users, self.ring // page), -1, dtype=np.int32)
        self.counts = np.zeros(users, dtype=np.int64)
        self.used = 0
        # (user, item) -> the item's number among the user's items when it was last put
        self._numbers: dict[tuple[int, int], int] = {}

    def put(self, user: int, item: int) -> int:
        """Record that the user saw the item; return the number of distinct items the user had seen before."""
        c = int(self.counts[user])
        if self._numbers.get((user, item), -1) >= max(0, c - self.window):
            return c
        self._numbers[user, item] = c
        place, slot = (c % self.ring) // self.page, c % self.page
        if self.page_of[user, place] < 0:
            if self.used == len(self.pages):
                self.pages = np.concatenate([self.pages, np.full_like(self.pages, -1)])
            self.page_of[user, place] = self.used
            self.used += 1
        self.pages[self.page_of[user, place], slot] = item
        self.counts[user] = c + 1
        return c

    def age(self, user: int, item: int) -> int:
        """How many distinct items the user has seen since this one."""
        return int(self.counts[user]) - 1 - self._numbers[user, item]

    def number(self, user: int, n: int) -> int:
        """The user's n-th item, which must still be in the ring."""
        return int(self.pages[self.page_of[user, (n % self.ring) // self.page], n % self.page])

    def seen(self) -> Seen:
        """The ring for a batch; later calls of `put` change it."""
        return Seen(self.pages, self.page_of, self.counts, self.window)


class Feed:
    """Gives one learner its rows and batches, in order."""

    def __init__(
        self,
        learner: OnlineLearner,
        *,
        seed: int = 1,
        users: int = 256,
        backwards: bool = False,
        longest: int = LONGEST,
    ) -> None:
        """User rows are assigned upwards from 0 or, `backwards`, downwards from `users` - 1; item rows in order of arrival.

        No batch may have more than `longest` events.
        """
        self.learner, self.seed, self.longest = learner, seed, longest
        named = learner.experts if isinstance(learner, Composed) else ()
        champions: dict[Kind, str] = {"ratings": EXPERT} if "ratings" in named else {}
        experts = [made(EXPERT if name == "ratings" else name, seed=seed) for name in named]
        self.learners = Learners([*experts, learner], champions)
        self.user_rows: dict[str, int] = {}
        self.item_rows: dict[str, int] = {}
        self.free = iter(range(users - 1, -1, -1) if backwards else range(users))
        self.ring = Ring(users, longest=longest)
        self.offset, self.low, self.high = 0, -np.inf, np.inf
        self.rated: dict[tuple[int, int], float] = {}
        self.category_words, self.category_sets = Table("item", [0, 0], dtype=np.uint64), CategorySets()
        self.profiles = Profiles(
            np.full(users, -1, dtype=np.int32), np.full((users, CATEGORIES), np.nan, dtype=np.float32),
            np.full((users, MEMBERSHIPS), -1, dtype=np.int32),
        )  # fmt: skip
        for one in self.learners.by_name.values():
            if isinstance(one, Categorised):
                one.attach(self.category_words, self.category_sets)

    def batch(self, events: Sequence[FeedEvent]) -> Batch:
        """The next events as a batch; new ids get rows."""
        n = len(events)
        lows, highs, clicks = np.empty((3, n), dtype=np.float32)
        seen_counts = np.empty(n, dtype=np.int64)
        back = TakenBack(np.full(n, np.nan, np.float32), np.zeros(n, np.int32), np.zeros(n, np.float32))
        kinds = np.array([event.kind for event in events], dtype=np.uint8)
        users = self._rows("user", [event.user_id for event in events])
        items = self._rows("item", [event.item_id for event in events])
        for k, (event, user, item) in enumerate(zip(events, users.tolist(), items.tolist(), strict=True)):
            lows[k], highs[k], seen_counts[k] = self.low, self.high, self.ring.put(user, item)
            clicks[k] = event.value if event.kind == CLICK else float(event.value >= 4.0)
            if event.kind != CLICK:
                kinds[k] = self._change(k, event, user, item, back, clicks)
            if event.kind in (RATING, REPLACED) and np.isfinite(event.value):
                first = not np.isfinite(self.low)
                self.low = event.value if first else min(self.low, event.value)
                self.high = event.value if first else max(self.high, event.value)
        offsets = np.arange(self.offset, self.offset + n, dtype=np.int64)
        self.offset += n
        return Batch(
            kinds, users, items,
            np.array([event.value for event in events], dtype=np.float32), clicks, offsets * 1000,
            event_keys(sequence_key(self.seed, LOG), offsets), lows, highs, seen_counts, self.ring.seen(),
            profiles=self.profiles, taken_back=back if not np.isnan(back.earlier).all() else nothing_taken_back(),
            begins=(offsets % 4 == 0).astype(np.uint8),
        )  # fmt: skip

    def _change(self, k: int, event: FeedEvent, user: int, item: int, back: TakenBack, clicks: F32) -> int:
        """Write what a rating takes back, and remember it; returns its kind."""
        before = self.rated.pop((user, item), None) if event.kind != RATING else None
        if event.kind == RETRACTED:
            clicks[k] = 0.0
        else:
            self.rated[user, item] = event.value
        if before is not None:
            back.earlier[k], back.ages[k] = before, self.ring.age(user, item)
            back.withdrawn[k] = float(before >= 4.0 and clicks[k] == 0)
            clicks[k] = float(clicks[k] > 0 and before < 4.0)
            return event.kind
        return REPEATED if event.kind == RETRACTED else RATING

    def batches(self, events: Sequence[FeedEvent], cut: int) -> Iterator[Batch]:
        """The next events in batches of `cut`, each made when the iterator reaches it."""
        for start in range(0, len(events), cut):
            yield self.batch(events[start : start + cut])

    def learn(self, events: Sequence[FeedEvent], cut: int = 100) -> F32:
        """Learn the next events in batches of `cut`; return the prediction for each, (n,)."""
        outs = [self.step(batch) for batch in self.batches(events, cut)]
        return np.concatenate(outs) if outs else np.zeros(0, dtype=np.float32)

    def step(self, batch: Batch) -> F32:
        """Learn a batch, the learner's experts first; return the learner's predictions, (n,)."""
        return dict(self.learners.opinions(batch))[self.learner.name].predicted

    def tables(self) -> dict[str, Table]:
        """The learner's tables by name, and those of its experts as `EXPERT/TABLE`."""
        return {
            name if made is self.learner else f"{made.name}/{name}": table
            for made in self.learners.by_name.values()
            for name, table in made.tables().items()
        }

    def _rows(self, side: str, ids: Sequence[str]) -> I32:
        known = self.user_rows if side == "user" else self.item_rows
        new = [one for one in dict.fromkeys(ids) if one not in known]
        for one in new:
            known[one] = next(self.free) if side == "user" else len(known)
        rows = np.array([known[one] for one in new], dtype=np.int32)
        for table in self.tables().values():
            if table.side == side and new:
                table.reserve(int(rows.max()) + 1)
                table.begin(rows, [id_key(self.seed, side, one) for one in new])
        if side == "item" and new:
            self.category_words.reserve(int(rows.max()) + 1)
            self.category_words.values[rows] = [categories_of(one) for one in new]
            self.category_sets.sets.reserve(int(rows.max()) + 1)
            self.category_sets.sets.values[rows] = -1
            for one, row in zip(new, rows.tolist(), strict=True):
                self.category_sets.put(row, categories_of(one)[0] & 0b111)  # at most 8 sets, with several items each
        for one, row in zip(new, rows.tolist(), strict=True) if side == "user" else ():
            preferences, groups = profile_of(one)
            self.profiles.slots[row] = row if preferences or groups else -1
            self.profiles.preferences[row, list(preferences)] = list(preferences.values())
            self.profiles.groups[row, : len(groups)] = groups
        return np.array([known[one] for one in ids], dtype=np.int32)

    def ids(self, side: str) -> Mapping[str, int]:
        """Row by external id; the id of the stream's only row is ""."""
        return {"user": self.user_rows, "item": self.item_rows}.get(side, {"": 0})

    def state(self, *, touched: bool = True) -> dict[tuple[str, str], bytes]:
        """Bytes of rows by (table, external id): of the touched rows, or of all."""
        return {
            (name, one): table.values[row].tobytes()
            for name, table in self.tables().items()
            for one, row in self.ids(table.side).items()
            if table.touched[row] or not touched
        }

    def view(self, user_id: str) -> UserView:
        """The view of a user, known or not, as for a query."""
        row = self.user_rows.get(user_id)
        rows: dict[str, Array] = {}
        for name, (_, table) in self.learners.user_tables().items():
            key = id_key(self.seed, "user", user_id)
            rows[name] = table.initial(key) if row is None else table.values[row].copy()
        seen, profile = np.zeros(0, dtype=np.int32), profile_of(user_id)
        return UserView(user_id, row is not None, rows, seen, row is not None, None, *profile)

    def restart(self, fresh: OnlineLearner, *, backwards: bool) -> "Feed":
        """A feed that continues with a fresh learner, into which this one's rows are loaded; users get other rows."""
        other = Feed(fresh, seed=self.seed, users=len(self.ring.counts), backwards=backwards, longest=self.longest)
        other._rows("item", list(self.item_rows))
        other._rows("user", sorted(self.user_rows))
        for (name, one), value in self.state().items():
            table = other.tables()[name]
            row = other.ids(table.side)[one]
            table.load(row, value)
            table.touched[row] = 1  # so that `state` returns it
        for one, row in other.user_rows.items():
            count = int(self.ring.counts[self.user_rows[one]])
            for n in range(max(0, count - WINDOW), count):
                other.ring.counts[row] = n  # continue with the same number
                other.ring.put(row, self.ring.number(self.user_rows[one], n))
        other.offset, other.low, other.high = self.offset, self.low, self.high
        for restored_learner in other.learners.by_name.values():
            if isinstance(restored_learner, Rebuilt):
                restored_learner.restored()
        return other


def categories_of(item_id: str) -> tuple[int, int]:
    """The item's category words: two or three of ten categories, sometimes none or a higher one; only i0, i1, ... have any."""
    if not item_id[1:].isdigit():
        return 0, 0
    bits = id_key(0, "categories", item_id)
    late = int(item_id[1:]) % 5 == 4
    return bits & (bits >> 10) & 0x3FF | late << 50, late << 3 & bits


def profile_of(user_id: str) -> tuple[dict[int, float], tuple[int, ...]]:
    """The user's profile: preferences by number of category, and groups; only users whose ids end with `s` have any."""
    if not user_id.endswith("s"):
        return {}, ()
    bits = id_key(0, "profile", user_id)
    preferences = {
        number: (1.0, 2.5, 4.0, 5.0, 9.0)[(bits >> number) % 5] for number in (1, 3, 50, 67) if bits >> number & 1
    }
    return preferences, (bits % 3, 3 + bits % 4)[: bits >> 20 & 3]


def with_rows(batch: Batch, users: I32, items: I32) -> Batch:
    """The same events with other user and item rows; -1 is an unseen one."""
    return Batch(
        batch.kinds, users, items, batch.values, batch.clicks, batch.times_ms, batch.keys, batch.lows, batch.highs,
        batch.seen_counts, batch.seen, profiles=batch.profiles, begins=batch.begins,
    )  # fmt: skip


def contents(tables: Iterable[Table]) -> list[bytes]:
    """All that can change in the tables: values and `touched` marks."""
    return [part for table in tables for part in (table.values.tobytes(), table.touched.tobytes())]


# Former names, for plug-ins that import them.
Happening = FeedEvent
happenings = sample_events
