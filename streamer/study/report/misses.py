"""Misses: what was recommended to somebody who hated it, or predicted high and rated low, and the evidence for and against it.

A miss was predicted at least as high as the user rates on the whole, and rated lower than predicted by a deviation of all
ratings or more; or it was hated and in some model's top ten among everything unseen. "Why was this recommended to somebody
who hated it?" has four possible answers, and a miss is put beside all of them: what everybody thinks of the item (bias only
knows nothing else), what the model made of this user's taste beyond that, what those who are most alike gave it, and how the
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
from streamer.study.report.topten import HATED_SHARE, TEN, Lists, scored

MISSES, RATERS_OF_IT = 6, 5
JUDGED_FROM = 10  # test ratings that a user needs to be chosen
COMMON = 5  # ratings that a statement needs
NEAR, SOME = 0.5, 0.1  # ratings: as good as the same; worth a word


class Miss(NamedTuple):
    """An item of the test part that was predicted high and rated low."""

    title: str
    categories: tuple[str, ...]
    rating: float
    predicted: tuple[tuple[str, float], ...]  # by model
    bias_only: float
    online: tuple[float, float] | None  # what the online learner says, and the deviation of that belief
    places: tuple[
        tuple[str, int | None], ...
    ]  # by model: among all items that the user had not rated; None: it cannot tell
    of: int  # such items
    mean: float  # of others' ratings of it; NaN for none
    others: int  # who rated it
    usual: float  # the user's mean rating
    own: tuple[tuple[str, float, int], ...]  # the user's mean rating of each of its categories, and of how many
    neighbours: tuple[tuple[str, float, float], ...]  # most alike of those who rated it: id, likeness, rating
    words: tuple[str, ...]


def worst(contest: Contest, found: Lists) -> tuple[int, str]:
    """The number of the user who was served worst, and in words why: whose top tens had most that was then hated; of equals
    the one whose five worst misses of the best model are worst. Those with few test ratings are left out where others have more.
    """
    order, starts = contest.parts.test.by_user()
    counts, rank = np.diff(starts), {}
    for user in found.users[counts[found.users] >= min(JUDGED_FROM, counts.max())].tolist():
        over, high = _over(contest, user, order[starts[user] : starts[user + 1]])
        rank[user] = len(_hated(contest, found, user)), float(np.sort(np.where(high, over, 0.0))[-5:].sum())
    user = max(rank, key=lambda user: rank[user])
    if rank[user][0]:
        many = f"{rank[user][0]} items" if rank[user][0] > 1 else "an item"
        return user, f"the user served worst: {many} of some model's top ten the user hated"
    return user, f"the user whose five worst misses by {contest.best.name} are the worst of all"


def _hated(contest: Contest, found: Lists, user: int) -> set[int]:
    """Items of the test part that the user hated and that some model's top ten among everything unseen has."""
    at = np.flatnonzero(found.users == user)
    if not len(at):
        return set()
    rated = found.rated[int(at[0])]
    hated = rated.items[rated.values <= HATED_SHARE * contest.parts.train.values.max()]
    shown = np.concatenate([rows[int(at[0])] for rows in found.unseen.values()])
    return set(hated.tolist()) & set(shown.tolist())


def _over(contest: Contest, user: int, tested: I64) -> tuple[F64, Bool]:
    """By how much the best model was too high on the user's test ratings `tested` (n,), and which of them are misses."""
    parts = contest.parts
    assert contest.best.predicted is not None
    predicted = contest.best.predicted[2][tested].astype(np.float64)
    over: F64 = predicted - parts.test.values[tested]
    high: Bool = (predicted >= _usual(contest, user)) & (over >= parts.train.values.std())
    return over, high


def _usual(contest: Contest, user: int) -> float:
    """The user's mean rating before the test part; that of all where there is none."""
    train = contest.parts.train
    mine = train.values[train.users == user]
    return float(mine.mean() if len(mine) else train.values.mean())


def misses(
    contest: Contest, lists: Lists, memory: Memory, user: int, tested: I64, near: Sequence[tuple[float, str]]
) -> list[tuple[int, Miss]]:
    """The worst, with their places in `tested`: first what would have been shown, then by how much the best model was too high."""
    parts, side, best = contest.parts, contest.data.side, contest.best
    assert best.predicted is not None
    test, train = parts.test, parts.train
    over, high = _over(contest, user, tested)
    hated = _hated(contest, lists, user)
    shown = [int(item) in hated for item in test.items[tested]]
    order = sorted((n for n in range(len(tested)) if high[n] or shown[n]), key=lambda n: (not shown[n], -over[n], n))
    likes = train.select(train.users == user).clicked().items
    scores = {
        one.name: scored(one.model, np.array([user], dtype=np.int32), [likes], contest.data.item_count)[0]
        for one in contest.contenders
    }
    unseen = np.bincount(train.items, minlength=train.item_count) > 0
    for part in (train, parts.validation):
        unseen[part.items[part.users == user]] = False
    number = {user_id: n for n, user_id in enumerate(side.user_ids)}
    alike = {number[other]: likeness for likeness, other in near if likeness > 0}
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
        found.append((n, miss._replace(words=tuple(why(miss, best.name)))))
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
    value = float(np.clip(learner.score_row(belief, items)[0], memory.encoder.low, memory.encoder.high))
    return value, float(learner.uncertainty(belief, items)[0])


def why(miss: Miss, name: str) -> list[str]:
    """The evidence for and against it, one sentence each, from its numbers alone; `name` is the model that is asked."""
    predicted, places = dict(miss.predicted)[name], dict(miss.places)
    place = f"place {places[name]:,}" if places[name] else "no place"
    found = [
        f"{name} predicted {predicted:.1f}, {place} of the {miss.of:,} items that the user had not rated; the user gave it {miss.rating:.3g}."
    ]
    shown = [one for one, at in places.items() if at and at <= TEN]
    if shown:
        found.append(f"It would have been shown: it is in the top ten of {' and '.join(shown)}.")
    if miss.others:
        who = (
            f"{miss.others:,} others gave it {miss.mean:.1f} on average"
            if miss.others > 1
            else f"One other gave it {miss.mean:.1f}"
        )
        found.append(f"{who}; bias only, which goes by that and by this user's level, says {miss.bias_only:.1f}.")
    else:
        found.append(f"Nobody had rated it in the training part; bias only says {miss.bias_only:.1f}.")
    if name != "bias":
        found.append(_taste(miss, name, predicted))
    if miss.neighbours:
        mean, many = float(np.mean([value for _, _, value in miss.neighbours])), len(miss.neighbours)
        verdict = (
            "as good as predicted, so nobody near warned of it" if mean >= predicted - NEAR
            else "the warning was there, and outweighed" if mean <= (predicted + miss.rating) / 2
            else "less than predicted, and no warning"
        )  # fmt: skip
        who = f"The {many} most alike who rated it" if many > 1 else "The only user alike who rated it"
        found.append(f"{who} gave it {mean:.1f}: {verdict}.")
    else:
        found.append("Nobody alike had rated it.")
    hints = [
        f"{category} {mean:.1f}"
        for category, mean, count in miss.own
        if count >= COMMON and mean <= miss.usual - NEAR / 2
    ]
    if hints:
        found.append(
            f"A hint in the history: the user rates {', '.join(hints)} on average, and {miss.usual:.1f} on the whole."
        )
    elif miss.own:
        found.append("No hint in the history: the user rates none of its categories clearly lower than the rest.")
    return found


def _taste(miss: Miss, name: str, predicted: float) -> str:
    taste = predicted - miss.bias_only
    if predicted < miss.usual:
        return f"{name} did not fall for it: that is less than the user's mean, {miss.usual:.1f}."
    if taste > (predicted - miss.usual) / 2 and taste > SOME:
        return f"The prediction is what {name} makes of this user's taste, {taste:+.1f}, more than reputation."
    if taste > SOME:
        return f"The prediction is mostly reputation; what {name} makes of this user's taste added {taste:+.1f}."
    if taste > -SOME:
        return f"The prediction is reputation: what {name} makes of this user's taste changed nothing ({taste:+.2f})."
    return f"The prediction is reputation; what {name} makes of this user's taste held back ({taste:+.1f}), and too little."
