"""What to ask a user about: the items whose rating would teach most about what would be recommended."""

import shlex

import msgspec
import numpy as np

from streamer.core.errors import StreamerError
from streamer.core.protocols import Asking, Conditioned
from streamer.serving.recommend import Recommender
from streamer.stream.memory import Memory

RECOMMENDED = 100  # first items of `Recommend` that are to be known better
PUBLISH = "http://127.0.0.1:{port}/streamer.v1.EventService/Publish"


class Question(msgspec.Struct, frozen=True):
    """An item to ask about."""

    item_id: str
    title: str
    known_to: float  # share of the users who have rated it: about how likely somebody can answer
    narrows: float  # share of today's variance that is expected to go with this answer, given those before it
    deviation: float  # how surely the recommended items are known then, in ratings


class Questions(msgspec.Struct, frozen=True):
    """What would teach the learner most about a user, the first question first."""

    user_id: str
    known: bool  # False: no event of this user was ever learned
    learner: str
    recommended: int  # items that count: the first ones of `Recommend`
    deviation: (
        float  # how surely these are known now, in ratings: root of the mean variance of what is expected of them
    )
    questions: list[Question]

    def sentences(self) -> list[str]:
        """For people."""
        who = f"user {self.user_id!r}" + ("" if self.known else ", never seen")
        if not self.questions:
            return [
                f"{who}: nothing to ask about, as no item that others have rated and this user has not seen would teach more"
            ]
        narrowed, goes = self.questions[-1].deviation, sum(question.narrows for question in self.questions)
        return [
            f"{who}: what they would rate the first {self.recommended} recommended items is known to about {self.deviation:.2f} ({self.learner})",
            f"answers to these questions are expected to narrow that to about {narrowed:.2f}: {goes:.0%} of the variance goes",
        ]

    def closing(self, port: int) -> list[str]:
        """For people: how to answer a streamer that listens on `port`."""
        if not self.questions:
            return []
        answer = {"userId": self.user_id, "itemId": self.questions[0].item_id, "rating": None}
        event = msgspec.json.encode({"events": [{"rating": answer}]}).decode().removesuffix("null}}]}") + "RATING}}]}"
        return [
            "they count from the moment they are published, in any order; leave out what is not known. The first one, with a number for RATING:",
            f"curl -s {PUBLISH.format(port=port)} -H 'Content-Type: application/json' -d {shlex.quote(event)}",
        ]


def questions(memory: Memory, recommender: Recommender, user_id: str, limit: int) -> Questions:
    """At most `limit` questions to a user, who may never have been seen; as of the last commit.

    Each is the available item, not seen by the user, with the largest

        share of the users who have rated it  x  expected fall of the variance over the first 100 items of `Recommend`

    after answers to those before, so that not all of them are about the same thing. The share is how likely it is that somebody
    can answer: without it people would be asked about what hardly anybody knows. What nobody has rated is never asked about.

    Raises StreamerError where neither the ratings champion nor an expert of it can say, or no ratings that differ have come.
    Cost: that of `recommend`, and 0.4 us an item and question.
    """
    learner = memory.learners.rater_with_belief()
    if not (isinstance(learner, Conditioned) and isinstance(learner, Asking)):
        raise StreamerError(
            f"nothing can be asked: {learner.name!r}, which answers for ratings here, does not know how sure it is of a user; "
            "bayesian-hybrid does, see --rating-learner"
        )
    user = memory.users.view(user_id)
    row_of, items = memory.items.row_of, np.arange(len(memory.items), dtype=np.int32)
    targets = np.array([row_of[one.item_id] for one in recommender.recommend(user_id, RECOMMENDED)], dtype=np.int32)
    shares = np.minimum(learner.ratings_of(items) / max(memory.users.count, 1), 1.0)
    free = memory.items.available[: len(items)] != 0
    free[user.seen[user.seen < len(items)]] = False
    asked, variances = learner.questions(learner.belief(user), items[free], shares[free], targets, limit)
    if len(targets) and not variances[0] > 0:  # 0 or not a number
        raise StreamerError(
            "nothing can be asked: no two ratings that differ have come yet, so there is no scale to measure doubt by"
        )
    deviations = np.sqrt(variances)
    found = [
        Question(item_id, memory.items.title(item_id), float(shares[row]), float(fall), float(deviation))
        for row, fall, deviation in zip(asked.tolist(), -np.diff(variances) / variances[0], deviations[1:], strict=True)
        for item_id in (memory.items.ids[row],)
    ]
    return Questions(user_id, user.known, learner.name, len(targets), float(deviations[0]), found)
