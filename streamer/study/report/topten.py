"""Top tens: how those of several models agree with one another and with users' highest ratings, and which items they contain.

There are two questions with different answers.

- *Among what the user rated*: each model ranks the items of a user's test part, and its first ten are compared with those
  that the user rated highest. Every place can be judged, but a service never chooses from so good a list.
- *Among everything unseen*: the ten items that would be shown, of all that the user had not rated. The user never
  rated most of them, so few can be judged. Coverage is measured on these.

The items that a user rated highest are whole levels of ratings from the top, as many as fit in ten items and at least one, so
that no random choice between equal ratings is needed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, I64, Array, Bool
from streamer.core.dataset import Dataset
from streamer.core.protocols import NextItem, OfflineModel, Rater

TEN = 10
JUDGED_FROM = 20  # test ratings that a user needs for the first question, so that ten are at most half of them
PAIRS_MOST, USERS_MOST = (
    8_000_000,
    5_000,
)  # largest number of (user, item) pairs that each model scores, and of users; with more, evenly spaced users are taken
SLICE = 32  # number of users scored at once
TRUTH = "rated highest"


class Rated(NamedTuple):
    """A user's test part: each item once, with its last rating."""

    items: I32  # (n,)
    values: F32  # (n,)

    def highest(self) -> Bool:
        """Whether each item is among those the user rated highest, (n,)."""
        levels, counts = np.unique(self.values, return_counts=True)
        fit = int(np.count_nonzero(np.cumsum(counts[::-1]) <= TEN))
        chosen: Bool = self.values >= levels[-max(1, fit)]
        return chosen


class Lists(msgspec.Struct, frozen=True):
    """Top tens of each model for users with test ratings, as item rows, -1 where there are fewer."""

    users: I32  # (n,) the users
    rated: Sequence[Rated]  # (n,)
    unseen: Mapping[str, I32]  # by model, (n, 10): among everything the user had not rated
    among: Mapping[str, I32]  # by model, (n, 10): among what the user rated in the test part
    candidates: Bool  # (items,) whether they have training ratings
    of: int  # number of all users with test ratings


def lists(models: Mapping[str, OfflineModel], train: Dataset, validation: Dataset, test: Dataset) -> Lists:
    """The top tens. Cost: each model scores every item for each of the users, at most eight million pairs."""
    everybody = np.unique(test.users)
    most = max(1, min(USERS_MOST, PAIRS_MOST // max(1, train.item_count)))
    users = everybody[np.linspace(0, len(everybody) - 1, min(most, len(everybody))).astype(np.int64)]
    candidates: Bool = np.bincount(train.items, minlength=train.item_count) > 0
    likes = _by_user(train.clicked())
    known = [_by_user(part) for part in (train, validation)]
    tested = _by_user(test)
    rated = [_once(test, tested(user)) for user in users.tolist()]
    unseen = {name: np.full((len(users), TEN), -1, dtype=np.int32) for name in models}
    among = {name: np.full((len(users), TEN), -1, dtype=np.int32) for name in models}
    clicked = train.clicked()
    for start in range(0, len(users), SLICE):
        part = users[start : start + SLICE]
        histories = [clicked.items[likes(user)] for user in part.tolist()]
        shown = np.tile(candidates, (len(part), 1))
        for n, user in enumerate(part.tolist()):
            for of, data in zip(known, (train, validation), strict=True):
                shown[n, data.items[of(user)]] = False
        for name, made in models.items():
            scores = score_items(made, part, histories, train.item_count)
            for n in range(len(part)):
                unseen[name][start + n] = _first(scores[n], np.flatnonzero(shown[n]))
                among[name][start + n] = _first(scores[n], rated[start + n].items)
    return Lists(users, rated, unseen, among, candidates, len(everybody))


def score_items(made: OfflineModel, users: I32, histories: Sequence[I32], items: int) -> F32:
    """The model's scores of every item, (users, items); NaN where it has none."""
    if isinstance(made, Rater):
        every = np.arange(items, dtype=np.int32)
        return made.predict(np.repeat(users, items), np.tile(every, len(users))).reshape(len(users), items)
    assert isinstance(made, NextItem)
    found: F32 = np.full((len(users), items), np.nan, dtype=np.float32)
    some = [n for n, history in enumerate(histories) if len(history)]
    if some:
        found[some] = made.scores(users[some], [histories[n] for n in some])
    return found


def _by_user(data: Dataset) -> Callable[[int], I64]:
    order, starts = data.by_user()
    return lambda user: order[starts[user] : starts[user + 1]]


def _once(test: Dataset, events: I64) -> Rated:
    last = {int(item): float(value) for item, value in zip(test.items[events], test.values[events], strict=True)}
    return Rated(np.array(list(last), dtype=np.int32), np.array(list(last.values()), dtype=np.float32))


def _first(scores: F32, items: Array) -> I32:
    """The ten of `items` with the highest scores, (10,), lower rows first among equals; -1 where there are fewer."""
    found: I32 = np.full(TEN, -1, dtype=np.int32)
    items = items[np.isfinite(scores[items])]
    if len(items) > TEN:  # first select all that are as good as the tenth: a full sort would cost ten times as much
        items = items[scores[items] >= np.partition(scores[items], -TEN)[-TEN]]
    best = items[np.lexsort((items, -scores[items]))[:TEN]]
    found[: len(best)] = best
    return found


class Overlap(msgspec.Struct, frozen=True):
    """Sets of (user, item) pairs, and the sizes of their intersections."""

    names: tuple[str, ...]  # of the sets: first the items rated highest, then those of each model
    sizes: tuple[int, ...]  # of each set
    parts: tuple[tuple[tuple[bool, ...], int], ...]  # number of pairs that are in exactly these sets; the largest first
    users: int
    chance: float | None  # for a model that ranks at random: the share of its places that are among the highest rated

    def share_of_truth(self, name: str) -> float:
        """The share of the model's places that are among the user's highest rated; NaN without places."""
        at = self.names.index(name)
        common = sum(count for sets, count in self.parts if sets[0] and sets[at])
        return common / self.sizes[at] if self.sizes[at] else np.nan


def overlap_among_rated(found: Lists, items: int) -> Overlap:
    """The first question: overlaps among what users rated in the test part, for users with enough ratings there."""
    enough = [n for n, rated in enumerate(found.rated) if len(rated.items) >= JUDGED_FROM]
    places = sum(min(TEN, len(found.rated[n].items)) for n in enough)
    lot = sum(TEN * float(np.mean(found.rated[n].highest())) for n in enough)
    return _overlap(found, found.among, enough, items, lot / places if places else None)


def overlap_among_unseen(found: Lists, items: int) -> Overlap:
    """The second question: overlaps among everything that users had not rated before."""
    return _overlap(found, found.unseen, range(len(found.users)), items, None)


def _overlap(
    found: Lists, chosen: Mapping[str, I32], users: Sequence[int], items: int, chance: float | None
) -> Overlap:
    truth = [n * items + found.rated[n].items[found.rated[n].highest()].astype(np.int64) for n in users]
    sets = [np.concatenate([np.empty(0, dtype=np.int64), *truth])]
    for lists_of in chosen.values():
        rows = [n * items + lists_of[n][lists_of[n] >= 0].astype(np.int64) for n in users]
        sets.append(np.concatenate([np.empty(0, dtype=np.int64), *rows]))
    pairs = np.unique(np.concatenate(sets))
    masks = sum(np.isin(pairs, one).astype(np.int64) << n for n, one in enumerate(sets))
    kinds, counts = np.unique(masks, return_counts=True)
    parts = sorted(
        ((tuple(bool(kind >> n & 1) for n in range(len(sets))), int(count)) for kind, count in zip(kinds.tolist(), counts, strict=True)),
        key=lambda part: (-part[1], part[0]),
    )  # fmt: skip
    return Overlap((TRUTH, *chosen), tuple(len(one) for one in sets), tuple(parts), len(users), chance)


class Outcome(NamedTuple):
    """How users rated the items in a model's top tens among everything unseen."""

    places: int
    rated: int  # places that the user rated in the test part
    highest: int  # of these, the number among the user's highest rated
    hated: int  # of these, the number rated at most 40% of the highest possible rating
    mean: float  # of these ratings; NaN without any


HATED_SHARE = 0.4  # of the highest rating: 2 of 5


def outcome(found: Lists, name: str, highest: float) -> Outcome:
    """The outcome for a model; `highest` is the highest possible rating."""
    places = rated = loved = hated = 0
    total = 0.0
    for row, of in zip(found.unseen[name], found.rated, strict=True):
        places += int(np.count_nonzero(row >= 0))
        met = np.isin(of.items, row)
        rated += int(np.count_nonzero(met))
        loved += int(np.count_nonzero(met & of.highest()))
        hated += int(np.count_nonzero(of.values[met] <= HATED_SHARE * highest))
        total += float(of.values[met].sum())
    return Outcome(places, rated, loved, hated, total / rated if rated else np.nan)


class Coverage(NamedTuple):
    """Which items are in top tens among everything unseen (or, for comparison, which are rated)."""

    covered: float  # share of the items that are in at least one
    gini: (
        float  # Gini coefficient of places by item: 0 if all items are equally frequent, 1 if it is always the same one
    )
    head: float  # share of the places that the 1% most popular items have
    tail: float  # share of the places that the tail has: items outside the most popular ones with 80% of the ratings
    curve: F64  # (items + 1,) share of the places that the n most popular items have


HEAD_SHARE, TAIL_SHARE = 0.01, 0.2


def coverage(places: I64, popularity: I64) -> Coverage:
    """The coverage for `places` (items,) and `popularity` (items,), the number of training ratings, of items that have any."""
    order = np.argsort(-popularity, kind="stable")
    curve: F64 = np.concatenate([[0.0], np.cumsum(places[order])]) / max(1, places.sum())
    ratings = np.cumsum(popularity[order]) / max(1, popularity.sum())
    body = int(np.searchsorted(ratings, 1 - TAIL_SHARE - 1e-12)) + 1  # items that have the first 80%
    ascending, n = np.sort(places), len(places)
    gini = float(2 * (np.arange(1, n + 1) @ ascending) / (n * max(1, ascending.sum())) - (n + 1) / n)
    head = curve[max(1, round(HEAD_SHARE * n))]
    return Coverage(float(np.mean(places > 0)), gini, float(head), float(1 - curve[min(body, n)]), curve)


def coverages(found: Lists, train: Dataset) -> dict[str, Coverage]:
    """The coverage by model, and that of the training ratings under the name `ratings`."""
    popularity = np.bincount(train.items, minlength=train.item_count)[found.candidates]
    every = {"ratings": coverage(popularity, popularity)}
    for name, rows in found.unseen.items():
        places = np.bincount(rows[rows >= 0], minlength=train.item_count)[found.candidates]
        every[name] = coverage(places, popularity)
    return every
