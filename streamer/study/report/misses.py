"""Misses: items that were recommended and hated, or predicted high and rated low, with the evidence for and against them.

A miss was predicted at least as high as the user's mean rating, and rated lower than predicted by one standard deviation of all
ratings or more; or it was hated and in some model's top ten among everything unseen. "Why was this recommended to somebody
who hated it?" has four possible answers, and all of them are shown: what everybody thinks of the item (all that bias only
knows), the model's estimate of this user's taste beyond that, the ratings of the most similar users, and how the
user rates its categories.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import F64, I64, Array, Bool
from streamer.core.dataset import Dataset
from streamer.core.protocols import Conditioned
from streamer.stream.memory import Memory
from streamer.study.report.contenders import Contest
from streamer.study.report.topten import HATED_SHARE, TEN, Lists, score_items

MISSES, RATERS_OF_IT = 6, 5
JUDGED_FROM = 10  # test ratings that a user needs to be chosen
COMMON = 5  # ratings that a statement needs
NEAR, SOME = 0.5, 0.1  # differences in ratings: below NEAR they count as equal, above SOME they are mentioned


class Miss(NamedTuple):
    """An item of the test part that was predicted high and rated low."""

    title: str
    categories: tuple[str, ...]
    rating: float
    predicted: tuple[tuple[str, float], ...]  # by model
    bias_only: float
    online: tuple[float, float] | None  # the online learner's prediction, and its standard deviation
    places: tuple[
        tuple[str, int | None], ...
    ]  # by model: its place among all items that the user had not rated; None: the model has no score for it
    of: int  # number of such items
    mean: float  # of other users' ratings of it; NaN without any
    others: int  # number of other users who rated it
    usual: float  # the user's mean rating
    own: tuple[
        tuple[str, float, int], ...
    ]  # the user's mean rating of each of its categories, and the number of ratings
    neighbours: tuple[tuple[str, float, float], ...]  # the most similar users who rated it: id, likeness, rating
    words: tuple[str, ...]


def worst_served_user(contest: Contest, found: Lists) -> tuple[int, str]:
    """The row of the user served worst, and the reason in words: the user who hated the most items of the models' top tens.

    Among equals it is the one with the largest sum of the best model's five worst misses. Users with few test ratings are
    left out if others have more.
    """
    order, starts = contest.parts.test.by_user()
    counts, rank = np.diff(starts), {}
    for user in found.users[counts[found.users] >= min(JUDGED_FROM, counts.max())].tolist():
        over, high = _over(contest, user, order[starts[user] : starts[user + 1]])
        rank[user] = len(_hated(contest, found, user)), float(np.sort(np.where(high, over, 0.0))[-5:].sum())
    user = max(rank, key=lambda user: rank[user])
    if rank[user][0]:
        many = f"{rank[user][0]} items" if rank[user][0] > 1 else "an item"
        return user, f"the user served worst, who hated {many} of the models' top tens"
    return user, f"the user whose five worst misses by {contest.best.name} are the largest of all"


def _hated(contest: Contest, found: Lists, user: int) -> set[int]:
    """Items of the test part that the user hated and that are in some model's top ten among everything unseen."""
    at = np.flatnonzero(found.users == user)
    if not len(at):
        return set()
    rated = found.rated[int(at[0])]
    hated = rated.items[rated.values <= HATED_SHARE * contest.parts.train.values.max()]
    shown = np.concatenate([rows[int(at[0])] for rows in found.unseen.values()])
    return set(hated.tolist()) & set(shown.tolist())


def _over(contest: Contest, user: int, tested: I64) -> tuple[F64, Bool]:
    """By how much the best model was too high on the user's test ratings `tested` (n,), and whether each is a miss."""
    parts = contest.parts
    assert contest.best.predicted is not None
    predicted = contest.best.predicted[2][tested].astype(np.float64)
    over: F64 = predicted - parts.test.values[tested]
    high: Bool = (predicted >= _usual(contest, user)) & (over >= parts.train.values.std())
    return over, high


def _usual(contest: Contest, user: int) -> float:
    """The user's mean rating in the training part; without any, that of all users."""
    train = contest.parts.train
    mine = train.values[train.users == user]
    return float(mine.mean() if len(mine) else train.values.mean())


def misses(
    contest: Contest, lists: Lists, memory: Memory, user: int, tested: I64, neighbours: Sequence[tuple[float, str]]
) -> list[tuple[int, Miss]]:
    """The worst misses with indices into `tested`: first those that would have been shown, then by the best model's error."""
    parts, side, best = contest.parts, contest.data.side, contest.best
    assert best.predicted is not None
    test, train = parts.test, parts.train
    over, high = _over(contest, user, tested)
    hated = _hated(contest, lists, user)
    shown = [int(item) in hated for item in test.items[tested]]
    order = sorted((n for n in range(len(tested)) if high[n] or shown[n]), key=lambda n: (not shown[n], -over[n], n))
    likes = train.select(train.users == user).clicked().items
    scores = {
        one.name: score_items(one.model, np.array([user], dtype=np.int32), [likes], contest.data.item_count)[0]
        for one in contest.contenders
    }
    unseen = np.bincount(train.items, minlength=train.item_count) > 0
    for part in (train, parts.validation):
        unseen[part.items[part.users == user]] = False
    number = {user_id: n for n, user_id in enumerate(side.user_ids)}
    alike = {number[other]: likeness for likeness, other in neighbours if likeness > 0}
    found = []
    for n in order[:MISSES]:
        at = int(tested[n])
        item = int(test.items[at])
        raters = np.flatnonzero((train.items == item) & (train.users != user))
        close = sorted(
            ((alike[int(train.users[r])], int(train.users[r]), float(train.values[r])) for r in raters if int(train.users[r]) in alike),
            key=lambda one: (-one[0], one[1]),
        )  # fmt: skip
        miss = Miss(
            title=side.titles[item],
            categories=_categories(contest.data, item),
            rating=float(test.values[at]),
            predicted=tuple((one.name, float(one.predicted[2][at])) for one in contest.raters if one.predicted),
            bias_only=float(contest.bias_only[at]),
            online=_online(memory, side.user_ids[user], side.item_ids[item]),
            places=tuple(
                (name, 1 + int(np.count_nonzero(of[unseen] > of[item])) if np.isfinite(of[item]) else None)
                for name, of in scores.items()
            ),
            of=int(np.count_nonzero(unseen)),
            mean=float(train.values[raters].mean()) if len(raters) else np.nan,
            others=len(raters),
            usual=_usual(contest, user),
            own=_own(contest, user, item),
            neighbours=tuple(
                (side.user_ids[other], likeness, value) for likeness, other, value in close[:RATERS_OF_IT]
            ),
            words=(),
        )
        found.append((n, miss._replace(words=tuple(explain(miss, best.name)))))
    return found


def _categories(data: Dataset, item: int) -> tuple[str, ...]:
    return tuple(data.side.category_names[n] for n in np.flatnonzero(data.side.categories[item]).tolist())


def _own(contest: Contest, user: int, item: int) -> tuple[tuple[str, float, int], ...]:
    train, side = contest.parts.train, contest.data.side
    mine = train.select(train.users == user)
    found = []
    for category in np.flatnonzero(side.categories[item]).tolist():
        values: Array = mine.values[side.categories[mine.items, category] > 0]
        if len(values):
            found.append((side.category_names[category], float(values.mean()), len(values)))
    return tuple(found)


def _online(memory: Memory, user_id: str, item_id: str) -> tuple[float, float] | None:
    learner, row = memory.learners.rater_with_belief(), memory.items.row_of.get(item_id)
    if row is None or not isinstance(learner, Conditioned):
        return None
    belief, items = learner.belief(memory.users.view(user_id)), np.array([row], dtype=np.int32)
    value = float(np.clip(learner.score_row(belief, items)[0], memory.encoder.scale.low, memory.encoder.scale.high))
    return value, float(learner.uncertainty(belief, items)[0])


def explain(miss: Miss, name: str) -> list[str]:
    """The evidence for and against a miss of the model `name`, one sentence each, from its numbers alone."""
    predicted, places = dict(miss.predicted)[name], dict(miss.places)
    place = f"place {places[name]:,}" if places[name] else "no place"
    found = [
        f"{name} predicted {predicted:.1f}, {place} among the {miss.of:,} items that the user had not rated; the user gave it {miss.rating:.3g}."
    ]
    shown = [one for one, at in places.items() if at and at <= TEN]
    if shown:
        found.append(f"It would have been shown: it is in the top ten of {' and '.join(shown)}.")
    if miss.others:
        who = (
            f"{miss.others:,} others gave it {miss.mean:.1f} on average"
            if miss.others > 1
            else f"One other user gave it {miss.mean:.1f}"
        )
        found.append(f"{who}; bias only, which knows only that and the user's own mean, predicts {miss.bias_only:.1f}.")
    else:
        found.append(f"Nobody had rated it in the training part; bias only predicts {miss.bias_only:.1f}.")
    if name != "bias":
        found.append(_taste(miss, name, predicted))
    if miss.neighbours:
        mean, many = float(np.mean([value for _, _, value in miss.neighbours])), len(miss.neighbours)
        verdict = (
            "about as much as predicted, so there was no warning" if mean >= predicted - NEAR
            else "a warning, but it was outweighed" if mean <= (predicted + miss.rating) / 2
            else "less than predicted, but no clear warning"
        )  # fmt: skip
        who = f"The {many} most similar users who rated it" if many > 1 else "The only similar user who rated it"
        found.append(f"{who} gave it {mean:.1f}: {verdict}.")
    else:
        found.append("No similar user had rated it.")
    hints = [
        f"{category} {mean:.1f}"
        for category, mean, count in miss.own
        if count >= COMMON and mean <= miss.usual - NEAR / 2
    ]
    if hints:
        found.append(
            f"The history has a hint: the user rates {', '.join(hints)} on average, and {miss.usual:.1f} overall."
        )
    elif miss.own:
        found.append("The history has no hint: the user rates none of its categories clearly lower than the rest.")
    return found


def _taste(miss: Miss, name: str, predicted: float) -> str:
    taste = predicted - miss.bias_only
    if predicted < miss.usual:
        return f"{name} was not misled: the prediction is below the user's mean, {miss.usual:.1f}."
    if taste > (predicted - miss.usual) / 2 and taste > SOME:
        return f"The prediction comes more from {name}'s estimate of this user's taste ({taste:+.1f}) than from the item's reputation."
    if taste > SOME:
        return f"The prediction comes mostly from the item's reputation; {name}'s estimate of this user's taste added {taste:+.1f}."
    if taste > -SOME:
        return f"The prediction comes from the item's reputation; {name}'s estimate of this user's taste changed nothing ({taste:+.2f})."
    return f"The prediction comes from the item's reputation; {name}'s estimate of this user's taste lowered it ({taste:+.1f}), but too little."
