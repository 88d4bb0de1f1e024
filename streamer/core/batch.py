"""What a learner sees: events as arrays, and one user as a view."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, U64, Array

RATING, CLICK = 0, 1
CATEGORIES = 128  # numbers that categories can have; those from 64 on are shared, see categories.py
GROUPS, MEMBERSHIPS = 256, 8  # groups of users that there can be, and that one user can be in


@dataclass(frozen=True, slots=True)
class Seen:
    """Which items each user has seen, as the kernels read it.

    A user's seen items are a ring of `ring` distinct items in the order of first sight, in pages of item rows:
    the c-th one stands in `pages[page_of[user, (c % ring) // page], c % page]`, page being pages.shape[1].
    The ring is longer than what counts as seen (`window`), so that what was seen *before an event* is still all there after its batch:
    an event that came when `c` items had been seen has seen those numbered max(0, c - window) to c - 1.
    """

    pages: I32  # (pages, items a page)
    page_of: I32  # (user rows, pages a user), -1: none
    counts: I64  # (user rows,), distinct items ever put into the ring
    window: int  # 4,096


@dataclass(frozen=True, slots=True)
class Profiles:
    """What users say of themselves, as the kernels read it. A slot of -1: nothing; so it is for user rows beyond `slots`."""

    slots: I32  # (user rows,)
    preferences: F32  # (slots, CATEGORIES) the rating that items of a category deserve, NaN where nothing is said
    groups: I32  # (slots, MEMBERSHIPS) numbers of groups, below GROUPS; -1: no more


NO_PROFILES = Profiles(
    np.empty(0, np.int32), np.empty((0, CATEGORIES), np.float32), np.empty((0, MEMBERSHIPS), np.int32)
)


class Opinion(NamedTuple):
    """What a learner said of a batch while it learned it: as of just before each event."""

    predicted: F32  # (n,) what its `learn` returned
    scores: F32  # (n, m) what its `score` would have said of the m items that were asked about; (n, 0) where none were


def no_probes() -> I32:
    """Of a learner that asks about nothing."""
    return np.empty((0, 0), dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Batch:
    """n events in the order they are learned in. A row of -1 is one never seen: only in batches that are predicted."""

    kinds: U8  # (n,) RATING or CLICK
    users: I32  # (n,) user rows
    items: I32  # (n,) item rows
    values: F32  # (n,) the rating; the kind's weight for a click
    clicks: F32  # (n,) weight as a click: the kind's for clicks, 1 for ratings that are likes, 0 otherwise; below 0: a dislike
    times_ms: I64  # (n,) when it happened, by the event
    keys: U64  # (n,) what the event's negatives are drawn from
    lows: F32  # (n,) lowest rating before this event, -inf where there was none
    highs: F32  # (n,) highest rating before this event, inf where there was none
    seen_counts: I64  # (n,) distinct items the user had seen before this event
    seen: Seen
    opinions: Mapping[str, Opinion] = field(default_factory=dict)  # of the experts of who is learning now, by name
    profiles: Profiles = NO_PROFILES
    probes: I32 = field(default_factory=no_probes)  # what who is learning now asked about

    def __len__(self) -> int:
        return len(self.kinds)

    def part(self, start: int, stop: int) -> "Batch":
        """Events start to stop - 1, as views."""
        cut = slice(start, stop)
        return Batch(
            self.kinds[cut], self.users[cut], self.items[cut], self.values[cut], self.clicks[cut], self.times_ms[cut],
            self.keys[cut], self.lows[cut], self.highs[cut], self.seen_counts[cut], self.seen,
            profiles=self.profiles,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Events:
    """Accepted events in the order they were learned in, by ids: what a retraining reads."""

    user_ids: Sequence[str]  # distinct
    item_ids: Sequence[str]  # distinct
    users: I32  # (n,) numbers into user_ids
    items: I32  # (n,) numbers into item_ids
    kinds: U8  # (n,) RATING or CLICK
    values: F32  # (n,) the rating; the kind's weight for a click
    times_ms: I64  # (n,) when it happened, by the event, clamped as the encoder clamps
    keys: U64  # (n,) what the event's negatives are drawn from, as the encoder makes them

    def __len__(self) -> int:
        return len(self.kinds)

    def chosen(self, which: Array) -> "Events":
        """The events `which`, a mask or numbers, under the same ids."""
        return Events(
            self.user_ids, self.item_ids, self.users[which], self.items[which], self.kinds[which], self.values[which],
            self.times_ms[which], self.keys[which],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class UserView:
    """One user as a query sees it: copies, so that nothing it reads moves and nothing it does is kept."""

    user_id: str
    known: bool  # False: no event of this user was ever learned
    rows: Mapping[str, Array]  # learner name -> the user's row in its user table, (width,)
    seen: I32  # (n,) item rows
    clicked: bool  # whether any event of this user was a click or a like
    now_ms: int | None = None  # when the answer is wanted; None: right after the user's last event
    preferences: Mapping[int, float] = field(default_factory=dict)  # as in Profiles: number of the category -> rating
    groups: tuple[int, ...] = ()  # as in Profiles
