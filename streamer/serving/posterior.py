"""A user's posterior in words: their taste, how certain it is, and which users are most similar."""

import heapq
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F64
from streamer.core.batch import RATING
from streamer.core.protocols import Belief, Conditioned, Described, OnlineLearner
from streamer.stream.history_rows import RETRACTION, stored_events
from streamer.stream.memory import Memory

SHOWN_CATEGORIES, SIMILAR_USERS, MAX_COMPARED_USERS = 5, 3, 100_000


class CategoryTaste(msgspec.Struct, frozen=True):
    """How much higher than other users a user rates items that have only this category, in units of the rating scale."""

    category: str
    mean: float
    deviation: float  # standard deviation of the belief

    @property
    def certainty(self) -> str:
        """A word for |mean| / deviation: surely from 2, probably from 1, else perhaps."""
        ratio = abs(self.mean) / max(self.deviation, 1e-12)
        return "surely" if ratio >= 2 else "probably" if ratio >= 1 else "perhaps"

    def words(self) -> str:
        """A text for people, as in `Comedy +0.42 (surely)`."""
        return f"{self.category} {self.mean:+.2f} ({self.certainty})"


class SimilarUser(msgspec.Struct, frozen=True):
    """Another user with a similar taste."""

    user_id: str
    likeness: float  # 1: the same taste, at least as strong; 0: unrelated; -1: the opposite taste
    ratings: int
    likes: list[CategoryTaste]
    favourites: list[str]  # titles of the best rated among the newest 512 events, the best first


class Posterior(msgspec.Struct, frozen=True):
    """What the ratings champion believes about a user."""

    learner: str
    ratings: int
    bias: float  # how much higher than other users this user rates, in units of the rating scale
    bias_deviation: float
    likes: list[CategoryTaste]
    dislikes: list[CategoryTaste]
    doubt: float  # standard deviation of a prediction, median over all items, in units of the rating scale
    precedents: list[SimilarUser]

    def sentences(self) -> list[str]:
        """The posterior as sentences for people."""
        side = f"{abs(self.bias):.2f} {'above' if self.bias >= 0 else 'below'} others (give or take {self.bias_deviation:.2f})"
        ratings = f"{self.ratings:,} rating{'' if self.ratings == 1 else 's'}"
        sentences = [
            f"{self.learner}: {ratings}; rates {side}; a prediction is known to about {self.doubt:.2f}",
            f"  likes: {_listed(self.likes)}",
            f"  dislikes: {_listed(self.dislikes)}",
        ]
        if self.precedents:
            sentences.append("  closest users:")
        for other in self.precedents:
            titles = f"; gave most to {', '.join(other.favourites)}" if other.favourites else ""
            sentences.append(f"    {other.user_id!r}, {other.likeness:.0%} alike: likes {_listed(other.likes)}{titles}")
        return sentences


def _listed(tastes: Sequence[CategoryTaste]) -> str:
    return ", ".join(taste.words() for taste in tastes) or "nothing that is known"


def posterior(memory: Memory, user_id: str) -> Posterior | None:
    """The posterior of a user as of the last commit.

    None where nothing is known of the user, where all ratings so far are equal, or where neither the champion nor one of
    its experts keeps beliefs. Cost: one prediction of every item for `doubt`, and about 10 us for each stored user compared, at most 100,000.
    """
    learner = memory.learners.rater_with_belief()
    user = memory.users.view(user_id)
    if not (isinstance(learner, Conditioned) and isinstance(learner, Described)) or not (
        user.known or user.preferences
    ):
        return None
    row = learner.belief(user)
    belief = learner.describe(row)
    if not belief.bias[1] > 0:  # no scale yet: there are no ratings, or all are equal
        return None
    likes, dislikes = _likes_and_dislikes(memory, belief)
    items = np.arange(len(memory.items), dtype=np.int32)
    doubts = learner.uncertainty(row, items)
    near = _nearest(memory, learner, learner.name, user_id, learner.place(row), SIMILAR_USERS)
    return Posterior(
        learner.name, belief.ratings, *belief.bias, likes, dislikes,
        float(np.median(doubts)) if len(doubts) else 0.0,
        [_similar_user(memory, learner, likeness, other) for likeness, other in near],
    )  # fmt: skip


def _likes_and_dislikes(memory: Memory, belief: Belief) -> tuple[list[CategoryTaste], list[CategoryTaste]]:
    """The strongest likes and dislikes, without those whose mean is within half a standard deviation of 0."""
    names = memory.categories.names
    tastes = [
        CategoryTaste(name, float(mean), float(deviation))
        for name, (mean, deviation) in zip(names, belief.categories, strict=False)
        if abs(mean) > deviation / 2
    ]
    tastes.sort(key=lambda taste: (-abs(taste.mean), taste.category))
    likes, dislikes = ([taste for taste in tastes if (taste.mean > 0) is liked] for liked in (True, False))
    return likes[:SHOWN_CATEGORIES], dislikes[:SHOWN_CATEGORIES]


def nearest(memory: Memory, user_id: str, most: int) -> list[tuple[float, str]]:
    """The users with the most similar taste, at most `most`, as (SimilarUser.likeness, user id), the most similar first.

    Empty where the learner keeps no beliefs, as in `posterior`. Cost: some 10 us for each stored user compared, at most 100,000.
    """
    learner = memory.learners.rater_with_belief()
    if not (isinstance(learner, Conditioned) and isinstance(learner, Described)):
        return []
    place = learner.place(learner.belief(memory.users.view(user_id)))
    return _nearest(memory, learner, learner.name, user_id, place, most)


def _nearest(
    memory: Memory, learner: Described, name: str, user_id: str, place: F64, most: int
) -> list[tuple[float, str]]:
    """The other users whose taste is most similar to `place`. The likeness is the cosine, and lower if the other taste is weaker."""
    stored, table = memory.learners.user_tables()[name]
    length = float(np.linalg.norm(place))

    def likenesses() -> Iterator[tuple[float, str]]:
        for compared, (key, value) in enumerate(memory.store.scan(stored)):
            if compared >= MAX_COMPARED_USERS or length == 0:
                return
            other, row = key.decode(), table.parse(value)
            if other != user_id and learner.describes(row):
                there = learner.place(row)
                yield float(there @ place) / (length * max(length, float(np.linalg.norm(there)))), other

    return heapq.nlargest(most, likenesses())


def _similar_user(memory: Memory, learner: OnlineLearner, likeness: float, user_id: str) -> SimilarUser:
    assert isinstance(learner, Conditioned)
    assert isinstance(learner, Described)
    belief = learner.describe(learner.belief(memory.users.view(user_id)))
    likes = _likes_and_dislikes(memory, belief)[0][:2]
    return SimilarUser(user_id, likeness, belief.ratings, likes, _favourites(memory, user_id))


def _favourites(memory: Memory, user_id: str) -> list[str]:
    """Titles of the two items that the user rated highest, the newest first where ratings are equal."""
    found = sorted(stored_events(memory.store, user_id), key=lambda event: int(event["time_ms"]))
    last = {int(event["item"]): event for event in found if event["kind"] in (RATING, RETRACTION)}
    events = [event for event in last.values() if event["kind"] == RATING]
    events.sort(key=lambda event: (-float(event["value"]), -int(event["time_ms"])))
    ids = dict.fromkeys(memory.items.ids[int(event["item"])] for event in events)
    return [memory.items.title(item_id) for item_id in list(ids)[:2]]
