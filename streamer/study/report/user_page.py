"""One user's page: history, beliefs, similar users, recommendations, and the worst misses with the evidence for them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np

from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings
from streamer.serving.posterior import Posterior, nearest, posterior
from streamer.stream.memory import Memory
from streamer.study.report.contenders import Contest
from streamer.study.report.misses import COMMON, Miss, misses, worst_served_user
from streamer.study.report.topten import Lists, score_items

LISTED, PEOPLE = 8, 5
USERS_SEARCHED = 100_000


class Seen(NamedTuple):
    """A rating of the user."""

    title: str
    value: float
    when: str


class SimilarUser(NamedTuple):
    """A user who is similar by the beliefs of the online learner; ratings are of the training part."""

    user_id: str
    likeness: float  # 1: the same tastes, as strong or stronger; 0: nothing in common
    ratings: int
    common: int  # number of items that both rated
    agreement: float  # correlation of these ratings; NaN for fewer than five
    favourites: tuple[str, ...]  # titles


class Suggestion(NamedTuple):
    """An item of the best model's top ten among everything unseen."""

    title: str
    predicted: float
    given: float | None  # the user's rating in the test part


class UserPage(msgspec.Struct, frozen=True, kw_only=True):
    """All that is shown about one user."""

    user_id: str
    chosen: str  # why this user was chosen, in words
    mean: float  # of the training and validation ratings; NaN without any
    ratings: tuple[int, int]  # number of ratings before the test part and in it
    values: tuple[float, ...]  # all ratings, in order of time
    missed: tuple[bool, ...]  # whether each of them is among `misses`
    liked: tuple[Seen, ...]
    disliked: tuple[Seen, ...]
    believed: Posterior | None
    alike: tuple[SimilarUser, ...]
    suggested: tuple[Suggestion, ...]
    misses: tuple[Miss, ...]


def find_user(data: Dataset, test: Dataset, user_id: str) -> int:
    """The row of the user with that id; raises BadSettings for an unknown user, or one without ratings in the test part."""
    if user_id not in data.side.user_ids:
        raise BadSettings(f"no user {user_id!r} in the history: name another, or none for the user served worst")
    user = list(data.side.user_ids).index(user_id)
    if user not in test.users:
        raise BadSettings(
            f"user {user_id!r} has no rating in the test part to compare predictions with: name another user, or another --split or --seed"
        )
    return user


def user_page(contest: Contest, lists: Lists, memory: Memory, user_id: str | None) -> UserPage:
    """The page of the user with that id, or of the user served worst; `memory` has learned the training part.

    Raises BadSettings for a user without a rating in the test part.
    """
    data, parts = contest.data, contest.parts
    if user_id is None:
        user, chosen = worst_served_user(contest, lists)
        user_id = data.side.user_ids[user]
    else:
        user, chosen = find_user(data, parts.test, user_id), "the user you asked for"
    tested = np.flatnonzero(parts.test.users == user)
    known = [part.select(part.users == user) for part in (parts.train, parts.validation)]
    neighbours = nearest(memory, user_id, USERS_SEARCHED)
    worst_ones = misses(contest, lists, memory, user, tested, neighbours)
    missed = {int(tested[n]) for n, _ in worst_ones}
    values = np.concatenate([*(part.values for part in known), parts.test.values[tested]])
    times = np.concatenate([*(part.times_ms for part in known), parts.test.times_ms[tested]])
    flags = np.concatenate([np.zeros(sum(map(len, known))), [int(n) in missed for n in tested]]).astype(bool)
    order = np.argsort(times, kind="stable")
    before = np.concatenate([part.values for part in known])
    liked, disliked = _extremes(known, data)
    return UserPage(
        user_id=user_id,
        chosen=chosen,
        mean=float(before.mean()) if len(before) else np.nan,
        ratings=(len(before), len(tested)),
        values=tuple(values[order].tolist()),
        missed=tuple(flags[order].tolist()),
        liked=liked,
        disliked=disliked,
        believed=posterior(memory, user_id),
        alike=_similar_users(contest, user, neighbours[:PEOPLE]),
        suggested=_suggested(contest, lists, user),
        misses=tuple(miss for _, miss in worst_ones),
    )


def _extremes(known: Sequence[Dataset], data: Dataset) -> tuple[tuple[Seen, ...], tuple[Seen, ...]]:
    """The items rated highest and lowest, the newest first; no item is in both."""
    found = sorted(
        (
            (float(value), int(time_ms), int(item))
            for part in known
            for value, time_ms, item in zip(part.values, part.times_ms, part.items, strict=True)
        ),
        key=lambda one: (-one[0], -one[1], one[2]),
    )
    half = len(found) // 2
    lowest = sorted(found[half:], key=lambda one: (one[0], -one[1], one[2]))
    shown = (found[: max(1, half)][:LISTED], lowest[:LISTED])
    liked, disliked = (
        tuple(Seen(data.side.titles[item], value, _day(time_ms)) for value, time_ms, item in some) for some in shown
    )
    return liked, disliked


def _day(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"


def _ratings_of(train: Dataset, user: int) -> dict[int, float]:
    mine = train.users == user
    return dict(zip(train.items[mine].tolist(), train.values[mine].tolist(), strict=True))


def _similar_users(contest: Contest, user: int, neighbours: Sequence[tuple[float, str]]) -> tuple[SimilarUser, ...]:
    train, side = contest.parts.train, contest.data.side
    number = {user_id: n for n, user_id in enumerate(side.user_ids)}
    own, found = _ratings_of(train, user), []
    for likeness, other in neighbours:
        theirs = _ratings_of(train, number[other])
        common = sorted(own.keys() & theirs.keys())
        pairs = np.array([(own[item], theirs[item]) for item in common]).reshape(-1, 2)
        varied = len(common) >= COMMON and bool((pairs.std(axis=0) > 0).all())
        best = sorted(theirs, key=lambda item: (-theirs[item], item))[:3]
        found.append(
            SimilarUser(
                other, likeness, len(theirs), len(common),
                float(np.corrcoef(pairs.T)[0, 1]) if varied else np.nan, tuple(side.titles[item] for item in best),
            )
        )  # fmt: skip
    return tuple(found)


def _suggested(contest: Contest, lists: Lists, user: int) -> tuple[Suggestion, ...]:
    at = np.flatnonzero(lists.users == user)
    if not len(at):
        return ()
    rated, side = lists.rated[int(at[0])], contest.data.side
    given = dict(zip(rated.items.tolist(), rated.values.tolist(), strict=True))
    items = lists.unseen[contest.best.name][int(at[0])]
    items = items[items >= 0]
    train = contest.parts.train.values
    scores = score_items(contest.best.model, np.array([user], dtype=np.int32), [], contest.data.item_count)[0][items]
    return tuple(
        Suggestion(side.titles[item], float(score), given.get(item))
        for item, score in zip(items.tolist(), scores.clip(train.min(), train.max()), strict=True)
    )
