"""Which items to ask a user about: those whose ratings would teach most about what to recommend."""

import shlex

import msgspec
import numpy as np

from streamer.core.errors import StreamerError
from streamer.core.protocols import Asking, Conditioned
from streamer.serving.recommend import Recommender
from streamer.stream.memory import Memory

RECOMMENDED = 100  # the questions shall reduce the uncertainty about the first so many items that `Recommend` returns
PUBLISH = "http://127.0.0.1:{port}/streamer.v1.EventService/Publish"


class Question(msgspec.Struct, frozen=True):
    """An item to ask about."""

    item_id: str
    title: str
    known_to: float  # share of the users who have rated it: roughly the probability that somebody can answer
    narrows: float  # share of the present variance that this answer is expected to remove, given the answers before it
    deviation: float  # `Questions.deviation` that is expected after this answer


class Questions(msgspec.Struct, frozen=True):
    """The questions whose answers would teach the learner most about a user, the most useful first."""

    user_id: str
    known: bool  # False: no event of this user was ever learned
    learner: str
    recommended: int  # the number of items of `Recommend` whose uncertainty was considered
    # Uncertainty about these items now, in units of the rating scale: root of the mean variance of their expected ratings
    deviation: float
    questions: list[Question]

    def sentences(self) -> list[str]:
        """The result as sentences for people, without the list of questions."""
        who = f"user {self.user_id!r}" + ("" if self.known else ", never seen")
        if not self.questions:
            return [
                f"{who}: nothing to ask about, as no item that others have rated and this user has not seen would teach more"
            ]
        narrowed, removed = self.questions[-1].deviation, sum(question.narrows for question in self.questions)
        return [
            f"{who}: the ratings of the first {self.recommended} recommended items are known to about {self.deviation:.2f} ({self.learner})",
            f"answers to these questions are expected to narrow that to about {narrowed:.2f}: {removed:.0%} of the variance goes",
        ]

    def how_to_answer(self, port: int) -> list[str]:
        """Instructions for people: how to send the answers to a streamer that listens on `port`."""
        if not self.questions:
            return []
        answer = {"userId": self.user_id, "itemId": self.questions[0].item_id, "rating": None}
        event = msgspec.json.encode({"events": [{"rating": answer}]}).decode().removesuffix("null}}]}") + "RATING}}]}"
        return [
            "publish the answers as ratings, in any order; leave out unknown items. For the first, put a number in place of RATING:",
            f"curl -s {PUBLISH.format(port=port)} -H 'Content-Type: application/json' -d {shlex.quote(event)}",
        ]


def questions(memory: Memory, recommender: Recommender, user_id: str, limit: int) -> Questions:
    """At most `limit` questions to a user, who may be unknown; as of the last commit.

    Each question is the available item, not seen by the user, with the largest

        share of the users who have rated it  x  expected fall of the variance over the first 100 items of `Recommend`

    given answers to the questions before it, so that they are not all about the same thing. The share estimates the probability that
    somebody can answer: without it, people would be asked about items that hardly anybody knows. An item without ratings is never asked about.

    Raises StreamerError where neither the ratings champion nor one of its experts keeps beliefs, or where all ratings so far are equal.
    Cost: that of `recommend`, and 0.4 us an item and question.
    """
    learner = memory.learners.rater_with_belief()
    if not (isinstance(learner, Conditioned) and isinstance(learner, Asking)):
        raise StreamerError(
            f"nothing can be asked: the ratings champion, {learner.name!r}, keeps no uncertainty about a user; "
            "bayesian-hybrid does, see --rating-learner"
        )
    user = memory.users.view(user_id)
    row_of, items = memory.items.row_of, np.arange(len(memory.items), dtype=np.int32)
    targets = np.array([row_of[one.item_id] for one in recommender.recommend(user_id, RECOMMENDED)], dtype=np.int32)
    shares = np.minimum(learner.ratings_of(items) / max(memory.users.count, 1), 1.0)
    askable = memory.items.available[: len(items)] != 0
    askable[user.seen[user.seen < len(items)]] = False
    asked, variances = learner.questions(learner.belief(user), items[askable], shares[askable], targets, limit)
    if len(targets) and not variances[0] > 0:  # 0 or not a number
        raise StreamerError(
            "nothing can be asked: all ratings so far are equal, so there is no scale to measure uncertainty by"
        )
    deviations = np.sqrt(variances)
    found = [
        Question(item_id, memory.items.title(item_id), float(shares[row]), float(fall), float(deviation))
        for row, fall, deviation in zip(asked.tolist(), -np.diff(variances) / variances[0], deviations[1:], strict=True)
        for item_id in (memory.items.ids[row],)
    ]
    return Questions(user_id, user.known, learner.name, len(targets), float(deviations[0]), found)
