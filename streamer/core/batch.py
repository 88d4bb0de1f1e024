"""What a learner sees: a micro-batch of events as arrays, and one user as a view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, U64, Array

RATING, CLICK = 0, 1
REPLACED = 2  # a rating in place of its user's earlier one of the item, which is taken back; not predicted
RETRACTED = 3  # a rating withdrawn
REPEATED = 4  # says nothing new: the same rating again, a click again within seconds, a retraction of nothing
PROPOSE = -2  # in probes: the place of an item that an expert is to propose
CATEGORIES = 128  # how many numbers there are for categories; those from 64 on are shared, see categories.py
GROUPS, MEMBERSHIPS = 256, 8  # most groups of users, and most groups that one user can be in


@dataclass(frozen=True, slots=True)
class Seen:
    """Which items each user has seen, as the kernels read it.

    A user's seen items are a ring buffer of `ring` distinct items in the order in which they were first seen, split into pages:
    the c-th item is `pages[page_of[user, (c % ring) // page], c % page]`, where page is pages.shape[1].
    The ring is longer than `window`, the number of items that count as seen, so that what a user had seen *before an event* can
    still be read after its batch: if `c` items had been seen before the event, they are those numbered max(0, c - window) to c - 1.
    """

    pages: I32  # (pages, items a page) item rows
    page_of: I32  # (user rows, pages a user), -1: none
    counts: I64  # (user rows,) distinct items ever put into the ring
    window: int  # 4,096


@dataclass(frozen=True, slots=True)
class Profiles:
    """The users' own profiles, as the kernels read them. User rows beyond the end of `slots` have no profile either."""

    slots: I32  # (user rows,) the row of `preferences` and `groups`, -1: no profile
    preferences: F32  # (slots, CATEGORIES) the user's rating of each category, NaN where none was given
    groups: I32  # (slots, MEMBERSHIPS) numbers of groups, below GROUPS; -1 fills the rest


NO_PROFILES = Profiles(
    np.empty(0, np.int32), np.empty((0, CATEGORIES), np.float32), np.empty((0, MEMBERSHIPS), np.int32)
)


class Opinion(NamedTuple):
    """A learner's predictions for a batch, each made just before the event was learned."""

    predicted: F32  # (n,) what its `learn` returned
    scores: (
        F32  # (n, m) what its `score` would have answered for the m items probed at each event; (n, 0) without probes
    )


class Change(NamedTuple):
    """A change of the scale of ratings between two events of a batch: a rating y before it is factor y + shift after it."""

    at: int  # the event before which it takes effect; the number of events: after all of them
    factor: float
    shift: float


def no_probes() -> I32:
    """The probes of a learner that has none, (0, 0)."""
    return np.empty((0, 0), dtype=np.int32)


class TakenBack(NamedTuple):
    """What the events of a batch take back: (n,) each, or (0,) if they take nothing back."""

    earlier: F32  # the rating that is replaced or withdrawn; NaN elsewhere
    ages: I32  # how many distinct items its user has seen since that of this event: about how old the earlier rating is
    withdrawn: F32  # the weight as a click that the earlier rating had and that is taken back, 0 elsewhere

    def part(self, cut: slice) -> "TakenBack":
        """The changes of some of the events, as views."""
        return TakenBack(self.earlier[cut], self.ages[cut], self.withdrawn[cut])


def nothing_taken_back() -> TakenBack:
    """The changes of a batch that takes nothing back."""
    return TakenBack(np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class Batch:
    """n events in the order in which they are learned. A row of -1, only in batches to predict, is an id never seen."""

    kinds: U8  # (n,) RATING, CLICK, REPLACED, RETRACTED or REPEATED
    users: I32  # (n,) user rows
    items: I32  # (n,) item rows
    values: F32  # (n,) the rating, clipped to the scale, 0 for a retraction; the kind's weight for a click
    clicks: F32  # (n,) weight as a click: the kind's for clicks, 1 for ratings that are likes, 0 otherwise; below 0: a dislike
    times_ms: I64  # (n,) when it happened, according to the event
    keys: U64  # (n,) random keys from which the event's negatives are drawn
    lows: F32  # (n,) lower end of the scale of ratings before this event, -inf where there was none
    highs: F32  # (n,) upper end of the scale of ratings before this event, inf where there was none
    seen_counts: I64  # (n,) distinct items the user had seen before this event
    seen: Seen
    opinions: Mapping[str, Opinion] = field(
        default_factory=dict
    )  # by name, of the experts of the learner that learns now
    profiles: Profiles = NO_PROFILES
    probes: I32 = field(default_factory=no_probes)  # (n, m) the probes of the learner that learns now
    changes: tuple[Change, ...] = ()  # of the scale of ratings, in order
    taken_back: TakenBack = field(default_factory=nothing_taken_back)
    begins: U8 = field(
        default_factory=lambda: np.zeros(0, np.uint8)
    )  # (n,) 1 where an event begins a session of its user

    def __post_init__(self) -> None:
        if len(self.begins) < len(self.kinds):  # not given: nothing is known of sessions
            object.__setattr__(self, "begins", np.zeros(len(self.kinds), np.uint8))

    def __len__(self) -> int:
        return len(self.kinds)

    def part(self, start: int, stop: int) -> "Batch":
        """Events start to stop - 1, as views; a change of scale belongs to the part with the event before it."""
        cut = slice(start, stop)
        changes = tuple(one._replace(at=one.at - start) for one in self.changes if start < one.at <= stop)
        return Batch(
            self.kinds[cut], self.users[cut], self.items[cut], self.values[cut], self.clicks[cut], self.times_ms[cut],
            self.keys[cut], self.lows[cut], self.highs[cut], self.seen_counts[cut], self.seen,
            profiles=self.profiles, changes=changes,
            taken_back=self.taken_back.part(cut), begins=self.begins[cut],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Events:
    """Accepted events in the order in which they were learned, by ids: what a retraining reads."""

    user_ids: Sequence[str]  # distinct
    item_ids: Sequence[str]  # distinct
    users: I32  # (n,) numbers into user_ids
    items: I32  # (n,) numbers into item_ids
    kinds: U8  # (n,) as in a Batch, but a rating in place of another one may be RATING too
    values: F32  # (n,) the rating, 0 for a retraction; the kind's weight for a click
    times_ms: I64  # (n,) when it happened, according to the event, clamped as the encoder clamps it
    keys: U64  # (n,) random keys from which the event's negatives are drawn, as the encoder makes them

    def __len__(self) -> int:
        return len(self.kinds)

    def select(self, which: Array) -> "Events":
        """The events that `which` selects, a mask or indices, under the same ids."""
        return Events(
            self.user_ids, self.item_ids, self.users[which], self.items[which], self.kinds[which], self.values[which],
            self.times_ms[which], self.keys[which],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class UserView:
    """One user as a query sees it: copies, so that learning does not change them and the query changes no state."""

    user_id: str
    known: bool  # False: no event of this user was ever learned
    rows: Mapping[str, Array]  # learner name -> the user's row in its user table, (width,)
    seen: I32  # (n,) item rows
    clicked: bool  # whether any event of this user was a click or a like
    now_ms: int | None = None  # the time for which to answer; None: right after the user's last event
    preferences: Mapping[int, float] = field(default_factory=dict)  # as in Profiles: number of the category -> rating
    groups: tuple[int, ...] = ()  # as in Profiles
