"""A whole history as arrays, with what is known of users and items beside it: what the models of the field are fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, Array
from streamer.core.batch import RATING, Batch, Seen


@dataclass(frozen=True, slots=True)
class SideInformation:
    """What is known of users and items apart from events; numbers of users and items are places in the sequences of ids."""

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    titles: Sequence[str]  # by item
    category_names: Sequence[str]
    categories: F32  # (items, len(category_names)) 1 where the item is of the category, 0 elsewhere
    years: F32  # (items,) the attribute `year`, NaN where the catalogue has none
    group_names: Sequence[str]
    groups: F32  # (users, len(group_names)) 1 where the user is in the group (an attribute's value), 0 elsewhere


@dataclass(frozen=True, slots=True)
class Dataset:
    """n events in the order in which they happened. Parts of a history share its side information, so numbers mean the same in all."""

    side: SideInformation
    kinds: U8  # (n,) RATING or CLICK
    users: I32  # (n,) numbers of users
    items: I32  # (n,) numbers of items
    values: F32  # (n,) the rating; the kind's weight for a click
    clicks: F32  # (n,) weight as a click, as in batch.Batch: 1 for ratings that are likes
    times_ms: I64  # (n,)

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def user_count(self) -> int:
        """Of the whole history, whichever part this is."""
        return len(self.side.user_ids)

    @property
    def item_count(self) -> int:
        """Of the whole history, whichever part this is."""
        return len(self.side.item_ids)

    def chosen(self, which: Array) -> "Dataset":
        """The events `which`, a mask or numbers."""
        return Dataset(
            self.side, self.kinds[which], self.users[which], self.items[which], self.values[which], self.clicks[which],
            self.times_ms[which],
        )  # fmt: skip

    def ratings(self) -> "Dataset":
        """The events that rate."""
        return self.chosen(self.kinds == RATING)

    def clicked(self) -> "Dataset":
        """The events that count as clicks: clicks, and ratings that are likes."""
        return self.chosen(self.clicks > 0)

    def by_user(self) -> tuple[I64, I64]:
        """The order that puts each user's events together, in time, and where each user begins in it, (users + 1,)."""
        return grouped(self.users, self.user_count)


def grouped(rows: I32, count: int) -> tuple[I64, I64]:
    """The order that puts `rows` (n,) together, and where each of `count` rows begins in it, (count + 1,)."""
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=starts[1:])
    return np.argsort(rows, kind="stable"), starts


def as_batch(data: Dataset) -> Batch:
    """The events as an online learner reads them, all at once; who had seen what is left out, and nobody has a profile."""
    ratings = np.where(data.kinds == RATING, data.values, np.nan).astype(np.float64)
    lows = np.fmin.accumulate(np.concatenate([[np.nan], ratings]))[:-1]
    highs = np.fmax.accumulate(np.concatenate([[np.nan], ratings]))[:-1]
    nothing = np.full((1, 1), -1, dtype=np.int32)
    pages = np.full((data.user_count, 1), -1, dtype=np.int32)
    return Batch(
        data.kinds, data.users, data.items, data.values, data.clicks, data.times_ms,
        np.arange(len(data), dtype=np.uint64),
        np.where(np.isnan(lows), -np.inf, lows).astype(np.float32),
        np.where(np.isnan(highs), np.inf, highs).astype(np.float32),
        np.zeros(len(data), dtype=np.int64), Seen(nothing, pages, np.zeros(data.user_count, dtype=np.int64), 0),
    )  # fmt: skip


def of_batch(history: Batch, side: SideInformation) -> Dataset:
    """A history as trainers get it, as one dataset; rows of the batch are numbers of `side`."""
    return Dataset(side, history.kinds, history.users, history.items, history.values, history.clicks, history.times_ms)


def nothing_known(users: int, items: int) -> SideInformation:
    """Of so many users and items, whatever they are called."""
    return SideInformation(
        user_ids=[""] * users, item_ids=[""] * items, titles=[""] * items, category_names=[],
        categories=np.empty((items, 0), dtype=np.float32), years=np.full(items, np.nan, dtype=np.float32), group_names=[],
        groups=np.empty((users, 0), dtype=np.float32),
    )  # fmt: skip
