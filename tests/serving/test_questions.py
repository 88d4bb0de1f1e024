"""Questions teach most about what is recommended, and answers reduce the variance as much as was announced."""

import itertools
import json
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import run
from process import DEADLINE_S, streamer
from recommending import GENRES, LiveRecommender, genre_of, genres

from streamer.core.arrays import F32, I32
from streamer.core.errors import StreamerError
from streamer.core.events import Click, Event, ItemRemoval, ItemUpdate, Rating, UserUpdate
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.kernel import noise_of
from streamer.models.hybrid.rows import SESSION, START_CONSENSUS, deviation
from streamer.serving.questions import Questions, questions

NOW_MS, LONG_AGO_MS = 1_700_000_000_000, 1_600_000_000_000  # now: when records arrive


def asked(live: LiveRecommender, user_id: str, limit: int = 5) -> Questions:
    return questions(live.memory, live.recommender, user_id, limit)


def hybrid(live: LiveRecommender) -> BayesianHybrid:
    learner = live.memory.learners.rater_with_belief()
    assert isinstance(learner, BayesianHybrid)
    return learner


def uncalibrated(live: LiveRecommender) -> LiveRecommender:
    """One whose scores are what the filter expects, as falls are announced for answers around that."""
    hybrid(live).calibration.values[:] = 0.0
    return live


def rows(*numbers: int) -> I32:
    return np.array(numbers, dtype=np.int32)


def rested(learner: BayesianHybrid, row: F32, mood: float = 0.0) -> F32:
    """The row of the same user some time later, by its layout: without a session offset, or with one of that variance."""
    n, row = learner.size, row.copy()
    p = np.zeros((n, n), dtype=np.float32)
    p[np.tril_indices(n)] = row[n:-4]
    p[SESSION], p[:, SESSION], row[SESSION] = 0, 0, 0
    p[SESSION, SESSION] = mood
    row[n:-4] = p[np.tril_indices(n)]
    return row


def doubt(learner: BayesianHybrid, row: F32, targets: I32) -> float:
    """The mean variance of the scores of `score_row`, as `uncertainty` gives it."""
    return float(np.mean(learner.uncertainty(rested(learner, row), targets).astype(np.float64) ** 2))


def answered(learner: BayesianHybrid, row: F32, item: int, surprise: float) -> F32:
    """The row after an answer that is `surprise` standard deviations of such answers above its expectation."""
    expected, unsure = learner.score_row(row, rows(item))[0], learner.uncertainty(row, rows(item))[0]
    noise = deviation(learner.stream.values) ** 2 * noise_of(row, learner.model)
    value = expected + surprise * np.sqrt(noise + unsure**2)
    live: F32 = learner.condition(row, {}, rows(item), np.array([value], dtype=np.float32))
    return live


def fall(learner: BayesianHybrid, row: F32, item: int, targets: I32) -> float:
    """The mean effect of an answer, from two answers at the right distance: exact for what is quadratic in the answer."""
    after = [doubt(learner, answered(learner, row, item, surprise), targets) for surprise in (-1.0, 1.0)]
    return doubt(learner, row, targets) - float(np.mean(after))


@pytest.fixture
def known(make: Callable[..., LiveRecommender]) -> LiveRecommender:
    """600 ratings of 60 items of three genres by 30 users who each love one genre."""
    live = uncalibrated(make())
    live.learn(*genres(600))
    return live


TARGETS = rows(*range(5, 25))


# What an answer is worth.


@pytest.mark.parametrize("user_id", ["nobody", "u1", "odd"])
def test_the_announced_fall_of_variance_is_the_mean_fall_after_an_answer(known: LiveRecommender, user_id: str) -> None:
    """For an unknown user, a known one, and one whose answers are surprising."""
    known.learn(*(Rating("odd", f"i{n % 60}", 5.0 if n % 2 else 0.5, LONG_AGO_MS) for n in range(100)))
    learner = hybrid(known)
    row = learner.belief(known.memory.users.view(user_id))
    later = rested(learner, row, learner.model.session)
    for item in range(60):
        (before, *after) = learner.questions(row, rows(item), np.ones(1), TARGETS, 1)[1]
        assert before == pytest.approx(doubt(learner, row, TARGETS), rel=1e-5)
        worth = fall(learner, later, item, TARGETS)
        assert before - after[0] == pytest.approx(worth, rel=3e-3, abs=1e-6) if after else worth <= 1e-6


def test_a_stored_row_gives_the_same_questions_as_its_belief(known: LiveRecommender) -> None:
    learner, user = hybrid(known), known.memory.users.view("nobody")
    learner.stream.values[0, START_CONSENSUS] = 0.5  # where new users' weight on consensus begins
    found = [
        learner.questions(row, rows(3), np.ones(1), TARGETS, 1)[1]
        for row in (user.rows[learner.name], learner.belief(user))
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_with_certain_items_every_answer_brings_the_announced_fall(known: LiveRecommender) -> None:
    learner = hybrid(known)
    learner.model = learner.model._replace(item_process=0.0)
    dim = learner.model.dim
    learner.item.values[:, [*range(dim, 2 * dim), 2 * dim + 1]] = 0.0  # their variances
    row = learner.belief(known.memory.users.view("nobody"))
    chosen, promised = learner.questions(row, rows(*range(60)), np.ones(60), TARGETS, 4)
    for values in ([1.0, 1.0, 1.0, 1.0], [5.0, 1.0, 5.0, 1.0], [3.0, 4.5, 2.0, 0.5], [5.0, 5.0, 5.0, 5.0]):
        for n in range(1, 5):
            live = learner.condition(row, {}, chosen[:n], np.array(values[:n], dtype=np.float32))
            assert doubt(learner, live, TARGETS) == pytest.approx(promised[n], rel=2e-3)


def test_the_announced_fall_of_several_answers_is_their_mean_fall(known: LiveRecommender) -> None:
    learner = hybrid(known)
    row = learner.belief(known.memory.users.view("nobody"))
    chosen, promised = learner.questions(row, rows(*range(60)), np.ones(60), TARGETS, 3)
    after = []
    for surprises in itertools.product((-1.0, 1.0), repeat=3):
        live = row
        for item, surprise in zip(chosen.tolist(), surprises, strict=True):
            live = answered(learner, live, item, surprise)
        after.append(doubt(learner, live, TARGETS))
    assert promised[3] == pytest.approx(np.mean(after), rel=3e-3)
    assert promised[3] < 0.85 * promised[0]


def test_each_question_is_the_best_one_after_answers_to_those_before(known: LiveRecommender) -> None:
    """By brute force: each item gets two possible answers; the mean fall counts times the share who can answer."""
    learner = hybrid(known)
    learner.item.values[:, learner.model.dim : 2 * learner.model.dim] *= (
        8  # so that it matters what is not known of items
    )
    items, shares = rows(*range(60)), np.random.default_rng(1).uniform(0.2, 1.0, 60)
    row = learner.belief(known.memory.users.view("nobody"))
    chosen, _ = learner.questions(row, items, shares, TARGETS, 4)
    left = items.tolist()
    for item in chosen.tolist():
        worth = {other: shares[other] * fall(learner, row, other, TARGETS) for other in left}
        assert worth[item] == pytest.approx(max(worth.values()), rel=1e-2)
        left.remove(item)
        row = answered(learner, row, item, 0.0)
    assert len(set(chosen.tolist())) == 4


def test_items_that_would_teach_nothing_are_not_asked_about(known: LiveRecommender) -> None:
    learner = hybrid(known)
    row, items = learner.belief(known.memory.users.view("nobody")), rows(*range(60))
    assert len(learner.questions(row, items, np.zeros(60), TARGETS, 3)[0]) == 0  # nobody could answer
    learner.item.values[:, learner.model.dim : 2 * learner.model.dim] = 100.0  # of such items answers only sow doubt
    assert fall(learner, row, 30, TARGETS) < 0
    chosen, variances = learner.questions(row, items, np.ones(60), TARGETS, 3)
    assert (len(chosen), len(variances)) == (0, 1)


def test_questions_are_not_all_about_the_same_thing(known: LiveRecommender) -> None:
    learner = hybrid(known)
    row = learner.belief(known.memory.users.view("nobody"))
    dramas = rows(
        *range(0, 30, 3), *range(1, 15, 3), *range(2, 12, 3)
    )  # 10 dramas, 5 comedies, 4 horrors are recommended
    chosen, _ = learner.questions(row, rows(*range(30, 60)), np.ones(30), dramas, 3)
    alone = [learner.questions(row, rows(item), np.ones(1), dramas, 1)[1] for item in range(30, 60)]
    best = 30 + np.argsort([after for _, after in alone])[:3]
    assert {int(item) % 3 for item in best} == {0}
    assert len({item % 3 for item in chosen.tolist()}) > 1


# Whom, and about what.


def test_only_rated_items_that_the_user_has_not_seen_are_asked_about(known: LiveRecommender) -> None:
    known.learn(ItemUpdate("unheard of", "Nobody rated it", ("Drama",)), ItemRemoval("i3"))
    known.learn(Rating("fan", "i0", 5.0), Click("fan", "i6", "view"))
    (found, everybody) = (asked(known, user_id, 100) for user_id in ("fan", "nobody"))
    ids = {one.item_id for one in found.questions}
    assert {one.item_id for one in everybody.questions} - ids == {"i0", "i6"}
    assert not {"unheard of", "i3"} & {one.item_id for one in everybody.questions}
    assert len(ids) > 40


def test_of_two_equally_useful_items_the_better_known_one_is_asked_about(make: Callable[..., LiveRecommender]) -> None:
    """i1 to i20 differ only in how often they were rated; hardly anybody knows i2 to i20."""
    live = make()
    live.learn(*genres(600), *(ItemUpdate(f"few{n}", categories=("Comedy",)) for n in range(20)))
    live.learn(*(Rating("u1", f"few{n}", 5.0, NOW_MS) for n in range(20)))
    live.learn(*(UserUpdate(f"u{n}") for n in range(30)))
    found = asked(live, "nobody", 10)
    assert not [one.item_id for one in found.questions if one.item_id.startswith("few")]
    assert all(one.known_to > 0.1 for one in found.questions)
    of_item = [
        event for event in genres(600) if isinstance(event, Rating) and event.item_id == found.questions[0].item_id
    ]
    assert found.questions[0].known_to == pytest.approx(len({event.user_id for event in of_item}) / 30)


def test_a_user_with_many_ratings_is_known_better_and_asked_other_questions(known: LiveRecommender) -> None:
    known.learn(UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    known.learn(*(Rating("critic", f"i{n}", 5.0 if n % 3 else 2.0, NOW_MS + n) for n in range(30)))
    nobody, fan, critic = (asked(known, user_id) for user_id in ("nobody", "fan", "critic"))
    assert [one.known for one in (nobody, fan, critic)] == [False, False, True]
    assert nobody.deviation > critic.deviation
    for found in (nobody, fan, critic):
        assert (len(found.questions), found.learner) == (5, "bayesian-hybrid")
        falls = found.deviation**2 - np.array([one.deviation for one in found.questions]) ** 2
        shares = np.cumsum([one.narrows for one in found.questions])
        np.testing.assert_allclose(falls / found.deviation**2, shares, rtol=1e-9)
        assert all(one.narrows > 0 and one.title == f"Item {one.item_id[1:]}" for one in found.questions)
    assert {genre_of(one.item_id) for one in fan.questions[:1]} != {"Horror"}
    assert critic.recommended == 30  # the others


def test_asking_changes_nothing(known: LiveRecommender) -> None:
    known.learn(*(Rating("critic", f"i{n}", 5.0, NOW_MS + n) for n in range(5)))
    known.memory.commit()
    before = known.store.digest()
    once = [asked(known, user_id) for user_id in ("critic", "nobody")]
    again = [asked(known, user_id) for user_id in ("critic", "nobody")]
    known.memory.commit()
    assert (once, known.store.digest()) == (again, before)


def test_an_expert_of_the_champion_asks_in_its_place(make: Callable[..., LiveRecommender]) -> None:
    live = make(rating_learner="stack")
    live.learn(*genres(300))
    assert (asked(live, "nobody").learner, len(asked(live, "nobody").questions)) == ("bayesian-hybrid", 5)


def test_the_error_says_why_nothing_can_be_asked(make: Callable[..., LiveRecommender]) -> None:
    live = make(rating_learner="bias")
    live.learn(*genres(30))
    with pytest.raises(StreamerError, match=r"the ratings champion, 'bias', .* bayesian-hybrid does"):
        asked(live, "nobody")
    live = make()
    assert asked(live, "nobody").questions == []  # no items either
    live.learn(Click("u1", "i1"))
    with pytest.raises(StreamerError, match="all ratings so far are equal"):
        asked(live, "nobody")
    live.learn(Rating("u1", "i1", 5.0), Rating("u2", "i1", 1.0))
    found = asked(live, "u1")
    assert (found.questions, found.sentences()[0].startswith("user 'u1': nothing to ask about")) == ([], True)
    assert [one.item_id for one in asked(live, "nobody").questions] == ["i1"]


# Answers.


def wide(count: int) -> list[Event]:
    """Ratings far below and above all others, so that no answer is outside the scale."""
    return [Rating(f"wide{n}", f"i{n // 2}", 8.0 * (n % 2) - 0.5, LONG_AGO_MS) for n in range(count)]


@pytest.mark.parametrize("earlier", [0, 20])
def test_learned_answers_narrow_the_recommended_items_as_announced(
    make: Callable[..., LiveRecommender], earlier: int
) -> None:
    """Users who answer as expected, some higher and some lower, in a session of their own."""
    live = uncalibrated(make())
    others = iter(genres(1500))
    for one in wide(100):
        live.learn(one, *islice(others, 15))
    learner, promised, brought, random = hybrid(live), [], [], np.random.default_rng(1)
    row_of = live.memory.items.row_of
    for number in range(40):
        user_id = f"new{number}"
        live.learn(*(Rating(user_id, f"i{n}", 5.0 - (n + number) % 3, LONG_AGO_MS) for n in range(earlier)))
        found = asked(live, user_id)
        targets = rows(*(row_of[one.item_id] for one in live.recommender.recommend(user_id, 100)))
        for question in found.questions:
            row, item = learner.belief(live.memory.users.view(user_id)), rows(row_of[question.item_id])
            spread = np.hypot(learner.uncertainty(row, item)[0], deviation(learner.stream.values) * 0.684**0.5)
            value = float(learner.score_row(row, item)[0] + spread * random.normal())
            live.learn(Rating(user_id, question.item_id, value, NOW_MS))
        after = doubt(learner, learner.belief(live.memory.users.view(user_id)), targets)
        promised.append(1 - (found.questions[-1].deviation / found.deviation) ** 2)
        brought.append(1 - after / found.deviation**2)
        again = asked(live, user_id)
        assert not {one.item_id for one in again.questions} & {one.item_id for one in found.questions}
    assert min(promised) > 0.03
    assert np.mean(brought) == pytest.approx(np.mean(promised), rel=0.15)


def test_answers_to_a_running_streamer_count_at_once(tmp_path: Path) -> None:
    """Questions, answers and new questions, while another process learns."""
    data = tmp_path / "data"

    def look() -> Questions:
        return msgspec.json.decode(
            run("inspect", "user", "ann", "--questions", "--data", data, "--json"), type=Questions
        )

    with streamer(data) as process:

        def publish(*events: object) -> str:
            said = process.call("EventService/Publish", events=list(events))
            assert said.get("accepted") == len(events), said
            return str(said["freshnessToken"])

        def predict(token: str) -> float:
            asked = {"userId": "ann", "itemId": "i59", "freshnessToken": token}
            return float(str(process.call("RecommendationService/Predict", **asked)["value"]))

        films = [{"item": {"itemId": f"i{n}", "title": f"Item {n}", "categories": [GENRES[n % 3]]}} for n in range(60)]
        rated = [event for event in genres(600) if isinstance(event, Rating)]
        token = publish(*films)
        for start in range(0, 600, 100):
            live = [
                {"userId": one.user_id, "itemId": one.item_id, "rating": one.rating}
                for one in rated[start : start + 100]
            ]
            token = publish(*({"rating": one} for one in live))
        before = predict(token)
        process.wait_for('streamer_events_total{outcome="learned",topic="ratings"}', 600)
        _committed(data, 600)
        first = look()
        ids = [one.item_id for one in first.questions]
        after = predict(publish(*({"rating": {"userId": "ann", "itemId": item_id, "rating": 2.0}} for item_id in ids)))
        assert after < before - 0.3
        _committed(data, 605)
        then = look()
    assert (first.known, then.known, len(ids)) == (False, True, 5)
    assert then.deviation < 0.95 * first.deviation
    assert not {one.item_id for one in then.questions} & set(ids)


def _committed(data: Path, ratings: int) -> None:
    """Wait until the state holds so many ratings; an inspection sees the last commit."""
    deadline = time.monotonic() + DEADLINE_S
    while json.loads(run("inspect", "offsets", "--data", data, "--json"))["offsets"].get("log/0", 0) < ratings + 60:
        assert time.monotonic() < deadline
