"""What is asked teaches most about what is recommended, and an answer brings what was promised of it."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import run
from process import DEADLINE_S, streamer
from recommending import GENRES, Told, genre_of, genres

from streamer.core.arrays import F32, I32
from streamer.core.errors import StreamerError
from streamer.core.events import Click, ItemRemoval, ItemUpdate, Rating, UserUpdate
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.hybrid.kernel import noise_of
from streamer.models.hybrid.rows import START_CONSENSUS, SESSION, deviation
from streamer.serving.questions import Questions, questions

NOW_MS, LONG_AGO_MS = 1_700_000_000_000, 1_600_000_000_000  # now: when records arrive


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Told]]:
    made: list[Told] = []

    def told(**flags: object) -> Told:
        made.append(Told(tmp_path / str(len(made)), **flags))
        return made[-1]

    yield told
    for one in made:
        one.store.close()


def asked(told: Told, user_id: str, limit: int = 5) -> Questions:
    return questions(told.memory, told.recommender, user_id, limit)


def hybrid(told: Told) -> BayesianHybrid:
    learner = told.memory.learners.rater_with_belief()
    assert isinstance(learner, BayesianHybrid)
    return learner


def rows(*numbers: int) -> I32:
    return np.array(numbers, dtype=np.int32)


def rested(learner: BayesianHybrid, row: F32, mood: float = 0.0) -> F32:
    """The row of the same user after a while, by its layout: in no mood at all, or in one of that variance."""
    n, row = learner.size, row.copy()
    p = np.zeros((n, n), dtype=np.float32)
    p[np.tril_indices(n)] = row[n:-4]
    p[SESSION], p[:, SESSION], row[SESSION] = 0, 0, 0
    p[SESSION, SESSION] = mood
    row[n:-4] = p[np.tril_indices(n)]
    return row


def doubt(learner: BayesianHybrid, row: F32, targets: I32) -> float:
    """The mean variance of what `score_row` answers, as `uncertainty` says it."""
    return float(np.mean(learner.uncertainty(rested(learner, row), targets).astype(np.float64) ** 2))


def answered(learner: BayesianHybrid, row: F32, item: int, surprise: float) -> F32:
    """The row after an answer that is `surprise` standard deviations of such answers above what is expected."""
    expected, unsure = learner.score_row(row, rows(item))[0], learner.uncertainty(row, rows(item))[0]
    noise = deviation(learner.stream.values) ** 2 * noise_of(row, learner.model)
    value = expected + surprise * np.sqrt(noise + unsure**2)
    told: F32 = learner.condition(row, {}, rows(item), np.array([value], dtype=np.float32))
    return told


def fall(learner: BayesianHybrid, row: F32, item: int, targets: I32) -> float:
    """What an answer brings on average: exact for what is quadratic in the answer, as two in the right distance are."""
    after = [doubt(learner, answered(learner, row, item, surprise), targets) for surprise in (-1.0, 1.0)]
    return doubt(learner, row, targets) - float(np.mean(after))


@pytest.fixture
def known(make: Callable[..., Told]) -> Told:
    """600 ratings of 60 items of three genres by 30 users who love one of them."""
    told = make()
    told.tell(*genres(600))
    return told


TARGETS = rows(*range(5, 25))


# What an answer is worth.


@pytest.mark.parametrize("user_id", ["nobody", "u1", "odd"])
def test_the_fall_that_is_promised_is_the_one_that_answers_bring_on_average(known: Told, user_id: str) -> None:
    """Of somebody never seen, of somebody who is known, and of one whose answers surprise."""
    known.tell(*(Rating("odd", f"i{n % 60}", 5.0 if n % 2 else 0.5, LONG_AGO_MS) for n in range(100)))
    learner = hybrid(known)
    row = learner.belief(known.memory.users.view(user_id))
    later = rested(learner, row, learner.model.session)
    for item in range(60):
        (before, *after) = learner.questions(row, rows(item), np.ones(1), TARGETS, 1)[1]
        assert before == pytest.approx(doubt(learner, row, TARGETS), rel=1e-5)
        worth = fall(learner, later, item, TARGETS)
        assert before - after[0] == pytest.approx(worth, rel=3e-3, abs=1e-6) if after else worth <= 1e-6


def test_a_row_as_it_is_stored_is_asked_as_the_belief_it_stands_for(known: Told) -> None:
    learner, user = hybrid(known), known.memory.users.view("nobody")
    learner.stream.values[0, START_CONSENSUS] = 0.5  # where new users' weight on consensus begins
    found = [
        learner.questions(row, rows(3), np.ones(1), TARGETS, 1)[1]
        for row in (user.rows[learner.name], learner.belief(user))
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_where_items_are_known_it_is_the_one_that_any_answer_brings(known: Told) -> None:
    learner = hybrid(known)
    learner.model = learner.model._replace(item_process=0.0)
    dim = learner.model.dim
    learner.item.values[:, [*range(dim, 2 * dim), 2 * dim + 1]] = 0.0  # their variances
    row = learner.belief(known.memory.users.view("nobody"))
    chosen, promised = learner.questions(row, rows(*range(60)), np.ones(60), TARGETS, 4)
    for values in ([1.0, 1.0, 1.0, 1.0], [5.0, 1.0, 5.0, 1.0], [3.0, 4.5, 2.0, 0.5], [5.0, 5.0, 5.0, 5.0]):
        for n in range(1, 5):
            told = learner.condition(row, {}, chosen[:n], np.array(values[:n], dtype=np.float32))
            assert doubt(learner, told, TARGETS) == pytest.approx(promised[n], rel=2e-3)


def test_what_several_answers_promise_together_is_what_they_bring_on_average(known: Told) -> None:
    learner = hybrid(known)
    row = learner.belief(known.memory.users.view("nobody"))
    chosen, promised = learner.questions(row, rows(*range(60)), np.ones(60), TARGETS, 3)
    after = []
    for surprises in itertools.product((-1.0, 1.0), repeat=3):
        told = row
        for item, surprise in zip(chosen.tolist(), surprises, strict=True):
            told = answered(learner, told, item, surprise)
        after.append(doubt(learner, told, TARGETS))
    assert promised[3] == pytest.approx(np.mean(after), rel=3e-3)
    assert promised[3] < 0.85 * promised[0]


def test_each_question_is_the_best_one_after_answers_to_those_before(known: Told) -> None:
    """By brute force: every item is answered, twice, and looked at what that brings, times who can answer."""
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


def test_what_would_teach_nothing_is_not_asked(known: Told) -> None:
    learner = hybrid(known)
    row, items = learner.belief(known.memory.users.view("nobody")), rows(*range(60))
    assert len(learner.questions(row, items, np.zeros(60), TARGETS, 3)[0]) == 0  # nobody could answer
    learner.item.values[:, learner.model.dim : 2 * learner.model.dim] = 100.0  # of such items answers only sow doubt
    assert fall(learner, row, 30, TARGETS) < 0
    chosen, variances = learner.questions(row, items, np.ones(60), TARGETS, 3)
    assert (len(chosen), len(variances)) == (0, 1)


def test_questions_are_not_all_about_the_same_thing(known: Told) -> None:
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


def test_only_what_somebody_may_know_and_the_user_has_not_seen_is_asked(known: Told) -> None:
    known.tell(ItemUpdate("unheard of", "Nobody rated it", ("Drama",)), ItemRemoval("i3"))
    known.tell(Rating("fan", "i0", 5.0), Click("fan", "i6", "view"))
    (found, everybody) = (asked(known, user_id, 100) for user_id in ("fan", "nobody"))
    ids = {one.item_id for one in found.questions}
    assert {one.item_id for one in everybody.questions} - ids == {"i0", "i6"}
    assert not {"unheard of", "i3"} & {one.item_id for one in everybody.questions}
    assert len(ids) > 40


def test_of_two_items_that_teach_as_much_the_one_that_more_people_know_is_asked(make: Callable[..., Told]) -> None:
    """i1 to i20 are alike but for how often they were rated; hardly anybody knows i2 to i20."""
    told = make()
    told.tell(*genres(600), *(ItemUpdate(f"few{n}", categories=("Comedy",)) for n in range(20)))
    told.tell(*(Rating("u1", f"few{n}", 5.0, NOW_MS) for n in range(20)))
    told.tell(*(UserUpdate(f"u{n}") for n in range(30)))
    found = asked(told, "nobody", 10)
    assert not [one.item_id for one in found.questions if one.item_id.startswith("few")]
    assert all(one.known_to > 0.1 for one in found.questions)
    ratings = sum(isinstance(event, Rating) and event.item_id == found.questions[0].item_id for event in genres(600))
    assert found.questions[0].known_to == pytest.approx(ratings / 30)


def test_who_has_said_much_is_known_better_and_asked_other_things(known: Told) -> None:
    known.tell(UserUpdate("fan", preferences={"Comedy": 5.0, "Horror": 1.0}))
    known.tell(*(Rating("critic", f"i{n}", 5.0 if n % 3 else 2.0, NOW_MS + n) for n in range(30)))
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


def test_asking_changes_nothing(known: Told) -> None:
    known.tell(*(Rating("critic", f"i{n}", 5.0, NOW_MS + n) for n in range(5)))
    known.memory.commit()
    before = known.store.digest()
    once = [asked(known, user_id) for user_id in ("critic", "nobody")]
    again = [asked(known, user_id) for user_id in ("critic", "nobody")]
    known.memory.commit()
    assert (once, known.store.digest()) == (again, before)


def test_an_expert_of_the_champion_asks_for_it(make: Callable[..., Told]) -> None:
    told = make(rating_learner="stack")
    told.tell(*genres(300))
    assert (asked(told, "nobody").learner, len(asked(told, "nobody").questions)) == ("bayesian-hybrid", 5)


def test_where_nothing_can_be_asked_it_is_said(make: Callable[..., Told]) -> None:
    told = make(rating_learner="bias")
    told.tell(*genres(30))
    with pytest.raises(StreamerError, match=r"'bias', which answers for ratings here, .* bayesian-hybrid does"):
        asked(told, "nobody")
    told = make()
    assert asked(told, "nobody").questions == []  # no items either
    told.tell(Click("u1", "i1"))
    with pytest.raises(StreamerError, match="no two ratings that differ have come yet"):
        asked(told, "nobody")
    told.tell(Rating("u1", "i1", 5.0), Rating("u2", "i1", 1.0))
    found = asked(told, "u1")
    assert (found.questions, found.sentences()[0].startswith("user 'u1': nothing to ask about")) == ([], True)
    assert [one.item_id for one in asked(told, "nobody").questions] == ["i1"]


# Answers.


@pytest.mark.parametrize("earlier", [0, 20])
def test_answers_that_are_learned_narrow_what_was_recommended_as_promised(
    make: Callable[..., Told], earlier: int
) -> None:
    """Users who answer as is expected of them, some better and some worse, in a session of its own."""
    told = make()
    told.tell(*genres(1500))
    learner, promised, brought, random = hybrid(told), [], [], np.random.default_rng(1)
    row_of = told.memory.items.row_of
    for number in range(40):
        user_id = f"new{number}"
        told.tell(*(Rating(user_id, f"i{n}", 5.0 - (n + number) % 3, LONG_AGO_MS) for n in range(earlier)))
        found = asked(told, user_id)
        targets = rows(*(row_of[one.item_id] for one in told.recommender.recommend(user_id, 100)))
        for question in found.questions:
            row, item = learner.belief(told.memory.users.view(user_id)), rows(row_of[question.item_id])
            spread = np.hypot(learner.uncertainty(row, item)[0], deviation(learner.stream.values) * 0.684**0.5)
            value = float(learner.score_row(row, item)[0] + spread * random.normal())
            told.tell(Rating(user_id, question.item_id, value, NOW_MS))
        after = doubt(learner, learner.belief(told.memory.users.view(user_id)), targets)
        promised.append(1 - (found.questions[-1].deviation / found.deviation) ** 2)
        brought.append(1 - after / found.deviation**2)
        again = asked(told, user_id)
        assert not {one.item_id for one in again.questions} & {one.item_id for one in found.questions}
    assert min(promised) > 0.03
    assert np.mean(brought) == pytest.approx(np.mean(promised), rel=0.15)


def test_answers_to_a_running_streamer_count_at_once(tmp_path: Path) -> None:
    """Asked, answered and asked again, all beside the process that learns."""
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
            told = [
                {"userId": one.user_id, "itemId": one.item_id, "rating": one.rating}
                for one in rated[start : start + 100]
            ]
            token = publish(*({"rating": one} for one in told))
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
    """Wait until a state holds so many ratings: an inspection sees the last commit."""
    deadline = time.monotonic() + DEADLINE_S
    while json.loads(run("inspect", "offsets", "--data", data, "--json"))["offsets"].get("log/0", 0) < ratings + 60:
        assert time.monotonic() < deadline
