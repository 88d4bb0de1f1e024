"""A user's posterior in words: what is known of them, how surely, and who is most like them."""

import heapq
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from streamer.core.arrays import F64
from streamer.core.batch import RATING
from streamer.core.protocols import Belief, Conditioned, Described, OnlineLearner
from streamer.stream.history import BLOCKS, EVENT, block_key
from streamer.stream.memory import Memory

SHOWN, PRECEDENTS, LOOKED_AT = 5, 3, 100_000


class Leaning(msgspec.Struct, frozen=True):
    """How much higher than others the user rates an item that is nothing but of a category, in ratings."""

    category: str
    mean: float
    deviation: float  # of the belief

    @property
    def sure(self) -> str:
        """In a word."""
        ratio = abs(self.mean) / max(self.deviation, 1e-12)
        return "surely" if ratio >= 2 else "probably" if ratio >= 1 else "perhaps"

    def words(self) -> str:
        """As in `Comedy +0.42 (surely)`."""
        return f"{self.category} {self.mean:+.2f} ({self.sure})"


class Precedent(msgspec.Struct, frozen=True):
    """Another user who is much alike."""

    user_id: str
    likeness: float  # 1: leans the same way, as strongly or more; 0: in nothing alike; -1: the contrary
    ratings: int
    likes: list[Leaning]
    favourites: list[str]  # titles, the best rated of the newest 512 events first


class Posterior(msgspec.Struct, frozen=True):
    """What the ratings champion believes of a user."""

    learner: str
    ratings: int
    bias: float  # how much higher than others, in ratings
    bias_deviation: float
    likes: list[Leaning]
    dislikes: list[Leaning]
    doubt: float  # median over all items of the standard deviation of a prediction, in ratings
    precedents: list[Precedent]

    def sentences(self) -> list[str]:
        """For people."""
        side = f"{abs(self.bias):.2f} {'above' if self.bias >= 0 else 'below'} others (give or take {self.bias_deviation:.2f})"
        found = [
            f"{self.learner}: {self.ratings:,} ratings; rates {side}; a prediction is known to about {self.doubt:.2f}",
            f"  likes: {_listed(self.likes)}",
            f"  dislikes: {_listed(self.dislikes)}",
        ]
        if self.precedents:
            found.append("  closest users:")
        for one in self.precedents:
            titles = f"; gave most to {', '.join(one.favourites)}" if one.favourites else ""
            found.append(f"    {one.user_id!r}, {one.likeness:.0%} alike: likes {_listed(one.likes)}{titles}")
        return found


def _listed(leanings: Sequence[Leaning]) -> str:
    return ", ".join(one.words() for one in leanings) or "nothing that is known"


def posterior(memory: Memory, user_id: str) -> Posterior | None:
    """Of a user as of the last commit; None where nothing is known, where all ratings were alike, or where neither the champion
    nor an expert of it can say.

    Cost: all items once for `doubt`; some 10 us a stored user for the closest ones, of whom 100,000 are looked at.
    """
    learner = memory.learners.rater_with_belief()
    user = memory.users.view(user_id)
    if not (isinstance(learner, Conditioned) and isinstance(learner, Described)) or not (
        user.known or user.preferences
    ):
        return None
    row = learner.belief(user)
    belief = learner.describe(row)
    if not belief.bias[1] > 0:  # no scale yet: no rating came, or all were alike
        return None
    likes, dislikes = _leanings(memory, belief)
    items = np.arange(len(memory.items), dtype=np.int32)
    doubts = learner.uncertainty(row, items)
    near = _nearest(memory, learner, learner.name, user_id, learner.place(row), PRECEDENTS)
    return Posterior(
        learner.name, belief.ratings, *belief.bias, likes, dislikes,
        float(np.median(doubts)) if len(doubts) else 0.0,
        [_precedent(memory, learner, likeness, other) for likeness, other in near],
    )  # fmt: skip


def _leanings(memory: Memory, belief: Belief) -> tuple[list[Leaning], list[Leaning]]:
    """The strongest likes and dislikes, those that are more than doubt."""
    names = memory.categories.names
    found = [
        Leaning(name, float(mean), float(deviation))
        for name, (mean, deviation) in zip(names, belief.categories, strict=False)
        if abs(mean) > deviation / 2
    ]
    found.sort(key=lambda one: (-abs(one.mean), one.category))
    return [one for one in found if one.mean > 0][:SHOWN], [one for one in found if one.mean < 0][:SHOWN]


def nearest(memory: Memory, user_id: str, most: int) -> list[tuple[float, str]]:
    """At most `most` users with ratings who lean most as the user does, with how alike they are (Precedent.likeness), the most alike first.

    Nobody where the learner cannot say, as `posterior`. Cost: some 10 us a stored user, of whom 100,000 are looked at.
    """
    learner = memory.learners.rater_with_belief()
    if not (isinstance(learner, Conditioned) and isinstance(learner, Described)):
        return []
    place = learner.place(learner.belief(memory.users.view(user_id)))
    return _nearest(memory, learner, learner.name, user_id, place, most)


def _nearest(
    memory: Memory, learner: Described, name: str, user_id: str, place: F64, most: int
) -> list[tuple[float, str]]:
    """Those with ratings who lean most as `place` does, without the user: of all who do, who leans less is less alike."""
    stored, table = memory.learners.user_tables()[name]
    length = float(np.linalg.norm(place))

    def likenesses() -> Iterator[tuple[float, str]]:
        for looked, (key, value) in enumerate(memory.store.scan(stored)):
            if looked >= LOOKED_AT or length == 0:
                return
            other, row = key.decode(), table.parse(value)
            if other != user_id and learner.describes(row):
                there = learner.place(row)
                yield float(there @ place) / (length * max(length, float(np.linalg.norm(there)))), other

    return heapq.nlargest(most, likenesses())


def _precedent(memory: Memory, learner: OnlineLearner, likeness: float, user_id: str) -> Precedent:
    assert isinstance(learner, Conditioned)
    assert isinstance(learner, Described)
    belief = learner.describe(learner.belief(memory.users.view(user_id)))
    likes = _leanings(memory, belief)[0][:2]
    return Precedent(user_id, likeness, belief.ratings, likes, _favourites(memory, user_id))


def _favourites(memory: Memory, user_id: str) -> list[str]:
    """Titles of what the user rated highest, the newest of them first."""
    blocks = memory.store.read("users/history", [block_key(user_id, n) for n in range(BLOCKS)])
    events = [
        event for value in blocks for event in np.frombuffer(value or b"", dtype=EVENT) if event["kind"] == RATING
    ]
    events.sort(key=lambda event: (-float(event["value"]), -int(event["time_ms"])))
    ids = dict.fromkeys(memory.items.ids[int(event["item"])] for event in events)
    return [memory.items.title(item_id) for item_id in list(ids)[:2]]
