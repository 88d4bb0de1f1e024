"""A whole history as arrays, with side information on users and items: what offline models are fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamer.core.arrays import F32, I32, I64, U8, Array
from streamer.core.batch import RATING, Batch, Seen


@dataclass(frozen=True, slots=True)
class SideInformation:
    """What is known of users and items apart from events. User and item numbers are indices into `user_ids` and `item_ids`."""

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
    """n events in the order in which they happened. Parts of a history share its side information, and so its numbers."""

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
        """Users of the whole history, also those without an event in this part."""
        return len(self.side.user_ids)

    @property
    def item_count(self) -> int:
        """Items of the whole history, also those without an event in this part."""
        return len(self.side.item_ids)

    def select(self, which: Array) -> "Dataset":
        """The events that `which` selects, a mask or indices."""
        return Dataset(
            self.side, self.kinds[which], self.users[which], self.items[which], self.values[which], self.clicks[which],
            self.times_ms[which],
        )  # fmt: skip

    def ratings(self) -> "Dataset":
        """The events that are ratings."""
        return self.select(self.kinds == RATING)

    def clicked(self) -> "Dataset":
        """The events that count as clicks: clicks, and ratings that are likes."""
        return self.select(self.clicks > 0)

    def by_user(self) -> tuple[I64, I64]:
        """A permutation that sorts events by user, then by time, and where each user begins in it, (users + 1,)."""
        return group_rows(self.users, self.user_count)


def group_rows(rows: I32, count: int) -> tuple[I64, I64]:
    """A stable permutation that sorts `rows` (n,), and where each of `count` rows begins in it, (count + 1,)."""
    starts = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=starts[1:])
    return np.argsort(rows, kind="stable"), starts


def as_batch(data: Dataset) -> Batch:
    """All events as one batch for an online learner; without seen items and profiles."""
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


def dataset_from_batch(history: Batch, side: SideInformation) -> Dataset:
    """A trainer's history as a dataset; rows of the batch are numbers of `side`."""
    return Dataset(side, history.kinds, history.users, history.items, history.values, history.clicks, history.times_ms)


def empty_side_information(users: int, items: int) -> SideInformation:
    """Side information without content, for this many users and items."""
    return SideInformation(
        user_ids=[""] * users, item_ids=[""] * items, titles=[""] * items, category_names=[],
        categories=np.empty((items, 0), dtype=np.float32), years=np.full(items, np.nan, dtype=np.float32), group_names=[],
        groups=np.empty((users, 0), dtype=np.float32),
    )  # fmt: skip
