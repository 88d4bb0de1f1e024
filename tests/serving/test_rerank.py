"""A re-ranker reorders the first candidates; whatever it does, an answer comes in time."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from learning import settings
from recommending import LiveRecommender, clicks

from streamer.core.arrays import F32, I32
from streamer.core.batch import UserView
from streamer.core.errors import BadSettings
from streamer.core.events import Rating
from streamer.serving import rerank
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULAR, POPULARITY, Recommender
from streamer.serving.rerank import Reranker

FLAGS: dict[str, object] = {"rating_learner": "bias", "click_learner": "popularity"}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveRecommender]:
    """Clicked most: a, then b, then c. Rated best: c, then b, then a. User u has seen none of them and clicked z."""
    made = LiveRecommender(tmp_path, **FLAGS)
    for number, item in enumerate(["a", "b", "c"]):
        made.learn(*[event for n in range(9 - 3 * number) for event in clicks(f"x{n}", item)])
        made.learn(Rating("x9", "z", 5.0), *[Rating(f"y{n}", item, 1.0 + number) for n in range(5)])
    made.learn(*clicks("u", "z"))
    yield made
    made.store.close()


class Asked:
    """A recommender with a re-ranker, and the outcome of each re-ranking."""

    def __init__(self, live: LiveRecommender, candidates: int = 200, deadline_s: float = 60.0) -> None:
        self.outcomes: list[str] = []
        self.waits: list[float] = []
        made = Reranker("bias", candidates, deadline_s, self._note)
        popularity = live.memory.learners.by_name[POPULARITY]
        self.recommender = Recommender(live.memory, popularity, reranker=made)

    def _note(self, outcome: str, seconds: float) -> None:
        self.outcomes.append(outcome)
        self.waits.append(seconds)

    def ids(self, limit: int = 10) -> list[str]:
        return [found.item_id for found in self.recommender.recommend("u", limit)]


def test_the_first_candidates_come_in_the_rerankers_order_and_the_others_after_them(live: LiveRecommender) -> None:
    assert live.ids("u") == ["a", "b", "c"]
    assert Asked(live).ids() == ["c", "b", "a"]
    two = Asked(live, candidates=2)
    found = two.recommender.recommend("u", 10)
    assert [one.item_id for one in found] == ["b", "a", "c"]
    assert [one.source for one in found] == ["bias (re-ranked popularity)"] * 2 + ["popularity"]
    assert found[0].score > found[1].score
    assert two.ids(1) == ["b"]  # candidates do not depend on how many are wanted
    assert two.outcomes == ["reranked"] * 2
    assert all(0 <= waited < 60 for waited in two.waits)


def test_popular_items_for_unknown_users_are_not_reranked(live: LiveRecommender) -> None:
    asked = Asked(live)
    found = asked.recommender.recommend("nobody", 10)
    assert {one.source for one in found} == {POPULAR}
    assert asked.outcomes == []


class Stuck:
    """A learner whose scoring blocks until it is released."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def score(self, user: UserView, items: I32) -> F32:
        self.free.wait()
        return -np.arange(len(items), dtype=np.float32)[::-1]


def test_no_answer_waits_for_a_late_reranker_nor_for_one_still_busy(live: LiveRecommender) -> None:
    asked, stuck = Asked(live, deadline_s=0.01), Stuck()
    live.memory.learners.by_name["bias"] = stuck  # type: ignore[assignment]  # all that is asked of it
    assert asked.ids() == ["a", "b", "c"]
    assert asked.ids() == ["a", "b", "c"]
    assert asked.outcomes == ["late", "busy"]
    assert (
        max(asked.waits) < 5.0
    )  # of .01: whoever waits for the learner waits for ever, or for a deadline of their own
    stuck.free.set()
    patient = 0
    while asked.ids() != ["c", "b", "a"]:
        patient += 1
        assert patient < 1_000, asked.outcomes
    assert asked.outcomes[-1] == "reranked"


class Wrong:
    """A learner that raises, or whose scores are not finite."""

    def __init__(self, says: float | None) -> None:
        self.says = says

    def score(self, user: UserView, items: I32) -> F32:
        if self.says is None:
            raise RuntimeError("it broke")
        found: F32 = np.arange(len(items), dtype=np.float32)
        found[1] = self.says
        return found


@pytest.mark.parametrize(("says", "outcome"), [(None, "error"), (np.nan, "not_finite"), (np.inf, "not_finite")])
def test_a_failing_reranker_leaves_the_order_as_it_was(live: LiveRecommender, says: float | None, outcome: str) -> None:
    asked = Asked(live)
    sound = live.memory.learners.by_name["bias"]
    live.memory.learners.by_name["bias"] = Wrong(says)  # type: ignore[assignment]  # all that is asked of it
    found = asked.recommender.recommend("u", 10)
    assert [one.item_id for one in found] == ["a", "b", "c"]
    assert {one.source for one in found} == {"popularity"}
    assert asked.outcomes == [outcome]
    live.memory.learners.by_name["bias"] = sound
    assert asked.ids() == ["c", "b", "a"]  # and is asked again


def test_a_reranker_must_run() -> None:
    with pytest.raises(BadSettings, match=r"reranker = 'deep-fm' names no learner that runs.*add --shadow deep-fm"):
        learners(settings(reranker="deep-fm", **FLAGS))
    made = learners(settings(reranker="deep-fm", shadow=("deep-fm",), **FLAGS))
    assert "deep-fm" in made.by_name
    assert rerank.reranker(settings().server, lambda name, outcome, seconds: None) is None
