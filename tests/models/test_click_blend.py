"""The blend of click learners: its weights follow the experts that are right, and its items are drawn as described."""

import dataclasses

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, click, rating
from streamer.core.batch import PROPOSE, Batch
from streamer.models.click_blend.click_blend import ClickBlend, ClickBlendParameters
from streamer.models.click_blend.kernel import (
    ALL_LEARNED,
    AS_IT_IS,
    COUNT,
    LISTED_WEIGHTS,
    OWN,
    PROBABILITY,
    RATING,
    RING,
    WEIGHTS,
    describe,
    feature,
    learn_click_blend,
)
from streamer.models.transitions.transitions import Transitions, TransitionsParameters

ITEMS = 60


def feed(**parameters: object) -> Feed:
    return Feed(ClickBlend("click-blend", ClickBlendParameters(**parameters), seed=1), users=4096)  # type: ignore[arg-type]


def weights(one: Feed) -> dict[str, float]:
    made = one.learner
    assert isinstance(made, ClickBlend)
    names = [*made.experts, "mixture", "known"]
    return dict(zip(names, made.stream.values[0, WEIGHTS : WEIGHTS + len(names)].tolist(), strict=True))


def test_the_expert_that_is_right_gains_weight() -> None:
    """All users go round a circle of items: transitions predict every click, popularity none."""
    events = []
    for n in range(300):
        events += [click(f"u{n}", f"i{(n * 7 + step) % ITEMS}") for step in range(8)]
    one = feed(every=1, prior=10.0, experts=("transitions", "popularity", "ratings"), weights=(0.1, 0.3, 0.5))
    one.learn(events)
    assert weights(one)["transitions"] > 0.3
    assert weights(one)["popularity"] < 0.3


def test_an_expert_that_is_not_probed_keeps_its_weight() -> None:
    events: list[FeedEvent] = []
    for n in range(200):
        events += [rating(f"u{n}", f"i{n % ITEMS}", 1.0 + n % 5), click(f"u{n}", f"i{(n + 1) % ITEMS}")]
    one = feed(every=1, prior=10.0)
    one.learn(events)  # the champion for ratings is `bias` here, which is not Probed
    assert weights(one)["ratings"] == pytest.approx(0.4, abs=1e-6)


def test_a_predicted_rating_counts_the_same_on_every_scale() -> None:
    """Three stars on a scale from 1 to 5 equal six on one from 2 to 10; without a range they count 0."""
    worth = [feature(stars, RATING, np.array([[0.0, width, 0.0]])) for stars, width in ((3, 4), (6, 8), (3, 0))]
    assert worth == [3.0, 3.0, 0.0]


def test_clicks_are_compared_with_items_that_the_user_knows_and_with_recent_new_ones() -> None:
    one = feed(every=1, proposed=3, drawn=32)
    one.learn([click(f"u{n}", f"i{n % 40}") for n in range(100)])
    one.learn([click("u", f"i{n}") for n in range(10)])
    one.learn([click("v", f"i{n}") for n in range(5)])
    made = one.learner
    assert isinstance(made, ClickBlend)
    batch: Batch = one.batch([click("u", "i10")])
    probes = made.probes(batch)
    assert probes[0, 0] == one.item_rows["i10"]
    assert probes[0, 1:4].tolist() == [PROPOSE] * 3
    own, drawn = probes[0, 4 : 4 + OWN], probes[0, 4 + OWN :][probes[0, 4 + OWN :] >= 0]
    assert set(own.tolist()) <= {one.item_rows[f"i{n}"] for n in range(10)}
    assert len(drawn) > 5
    assert set(drawn.tolist()).isdisjoint(one.item_rows[f"i{n}"] for n in range(11))
    assert set(drawn.tolist()) <= set(made.ring.values[0].tolist())
    few = made.probes(one.batch([click("v", "i10")]))[0, 4 : 4 + OWN]
    assert few.tolist() == [*(one.item_rows[f"i{n}"] for n in (4, 3, 2, 1, 0)), -1, -1, -1]  # each once


def test_one_click_in_so_many_is_learned_from() -> None:
    one = feed(every=4, drawn=2)
    one.learn([click("first", "i0")])
    made = one.learner
    assert isinstance(made, ClickBlend)
    batch = one.batch([click(f"u{n}", f"i{n % 40}") for n in range(800)])
    assert np.count_nonzero(made.probes(batch)[:, 0] >= 0) == 800  # at first each one
    made.stream.values[0, 0] = ALL_LEARNED
    assert 150 < np.count_nonzero(made.probes(batch)[:, 0] >= 0) < 250


def test_the_ring_forgets_its_oldest_and_is_counted_anew_after_a_restart() -> None:
    one = feed()
    one.learn([click(f"u{n}", "old") for n in range(10)])
    one.learn([click(f"u{n}", f"i{n % 50}") for n in range(RING)], 1000)
    made, again = (
        one.learner,
        one.restart(ClickBlend("click-blend", ClickBlendParameters(), seed=1), backwards=True),
    )
    assert isinstance(made, ClickBlend)
    assert isinstance(again.learner, ClickBlend)
    assert one.item_rows["old"] not in made.ring.values[0]
    items = np.arange(len(one.item_rows), dtype=np.int32)
    np.testing.assert_array_equal(
        made.probabilities(one.view("u1"), items), again.learner.probabilities(again.view("u1"), items)
    )
    assert made._in_ring[one.item_rows["old"]] == 0


PRIOR = 1000.0


def one_click(
    *scores: float, kind: int = AS_IT_IS, clicked: int = 0, probes: list[int] | None = None, seen: int = 0
) -> np.ndarray:
    """The stream of a blend of one expert after a click on an item, beside item 1, proposed, and item 2, drawn.

    Of the last five clicks three were on item 1, and one each on the others. The user has seen item 3, `seen` times.
    """
    probes = probes or [clicked, 1, *[-1] * OWN, 2]
    stream, in_ring = np.zeros((1, WEIGHTS + 3 + 3 + 9)), np.array([1, 3, 1, 0], dtype=np.int32)
    stream[0, [0, 3]], stream[0, WEIGHTS + 3 : WEIGHTS + 6] = (5.0, 0.5), 1.0
    stream[0, WEIGHTS - 9 : WEIGHTS] = stream[0, WEIGHTS + 6 :] = PRIOR * np.eye(3).ravel()
    ring, touched, user = np.full((1, RING), -1, np.int32), np.zeros(1, np.uint8), np.zeros(1, np.int32)
    by_probe = np.zeros((1, len(probes), 1), dtype=np.float32)
    by_probe[0, np.flatnonzero(np.array(probes) >= 0), 0] = scores
    learn_click_blend(
        stream, touched, ring, touched, in_ring, user, np.full(1, clicked, np.int32), np.ones(1, dtype=np.float32),
        np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32), np.full(1, seen, np.int64), np.full((1, 64), 3, np.int32),
        np.zeros((1, 1), np.int32), 64, np.array([probes], dtype=np.int32), 1, by_probe, np.full(1, kind, np.int32), PRIOR, 1.0,
    )  # fmt: skip
    return stream


def test_a_click_moves_a_weight_as_the_equations_say() -> None:
    """Both others score 1 more. What is proposed counts once, what is drawn by the inverse of its share, 1.5 / 6."""
    total = 1 + 1 + 1 / (1.5 / 6)  # the weight is 0: every exp is 1
    pi, slope = 1 / total, (total - 1) / total
    reliability, spread = pi / (pi + 0.005), slope - slope**2
    curvature = PRIOR + reliability * spread
    unforeseen = 0.5 * 1.5 / 6 / (0.5 * 1.5 / 6 + 0.5 * pi)
    found = one_click(0.0, 1.0, 1.0)[0]
    assert found[[0, 1, 2, 3, WEIGHTS, WEIGHTS + 3, WEIGHTS + 6]].tolist() == pytest.approx(
        [6.0, 0.0, 0.0, 0.5 + 0.01 * (unforeseen - 0.5), -reliability * slope / curvature,
         1.0 + 0.01 * (spread - 1.0), curvature]
    )  # fmt: skip


def test_the_user_s_own_items_count_for_all_that_the_user_knows() -> None:
    """Of 40 known items 8 are candidates, so that each stands for 5; the weight of `known` falls by their share."""
    found = one_click(0.0, 0.0, *[0.0] * OWN, probes=[0, 1, *[2] * OWN, -1], seen=40)[0]
    slope, pi = 40 / 42, 1 / 42
    reliability = pi / (pi + 0.005)
    assert found[WEIGHTS + 2] == pytest.approx(-reliability * slope / (PRIOR + reliability * slope * (1 - slope)))


def test_features_of_a_mixture_are_what_the_score_changes_by() -> None:
    """Two experts that say probabilities: the derivative by the log of a share is the weight times the part of that expert."""
    kinds, scores = np.full(2, PROBABILITY, np.int32), np.log(np.array([0.3, 0.02])).astype(np.float32)
    stream, f, g = np.zeros((1, WEIGHTS + 6 + 6 + 36)), np.empty(6), np.empty(6)
    stream[0, WEIGHTS : WEIGHTS + 6] = [0.0, 0.0, 0.7, 0.0, -1.0, 2.0]  # w of both, of the mixture, of known; ln a
    assert not describe(scores, kinds, True, stream, f)
    assert f[2] == pytest.approx(np.log(np.exp(-1) * 0.3 + np.exp(2) * 0.02))
    assert f[3] == 1.0
    for a in (4, 5):
        stream[0, WEIGHTS + a] += 1e-6
        describe(scores, kinds, True, stream, g)
        stream[0, WEIGHTS + a] -= 1e-6
        assert f[a] == pytest.approx(0.7 * (g[2] - f[2]) / 1e-6, rel=1e-3)


def test_a_first_click_on_an_item_teaches_nothing() -> None:
    """It is no candidate of any expert: its score would say how items are that nobody could recommend."""
    assert one_click(0.0, 1.0, 1.0, clicked=3)[0, WEIGHTS] == 0.0
    assert one_click(0.0, 1.0, 1.0, kind=COUNT, clicked=3)[0, WEIGHTS] == 0.0
    assert one_click(0.5, 1.0, 1.0, kind=COUNT, clicked=3)[0, WEIGHTS] != 0.0  # clicked before the last 4,096 clicks


def test_a_score_far_from_that_of_the_clicked_item_counts_as_20() -> None:
    clipped, far = one_click(0.0, 20.0, -20.0), one_click(0.0, 1e6, -1e6)
    np.testing.assert_array_equal(clipped, far)
    assert not np.array_equal(one_click(0.0, 20.0, -20.0), one_click(0.0, 19.0, -20.0))


def test_the_first_expert_proposes_what_it_scores_highest_and_the_others_score_it_too() -> None:
    """After a and b most users click c, some d; the user has seen e, which follows most often."""
    events = [click(f"u{n}", item) for n in range(40) for item in ("a", "b", "e", "c" if n % 4 else "d")]
    one = feed(every=1, proposed=3, drawn=1, experts=("transitions", "popularity", "ratings"), weights=(1.0, 0.0, 0.0))
    one.learn([*events, click("u", "e"), click("u", "a"), click("u", "b")])
    made, asked = one.learner, []
    assert isinstance(made, ClickBlend)
    learn = made.learn
    made.learn = lambda batch: asked.append(batch) or learn(batch)  # type: ignore[assignment,func-returns-value]
    one.learn([click("u", "d")])
    (batch,) = asked
    c = one.item_rows["c"]
    assert batch.probes[0, 1:4].tolist() == [c, -1, -1]  # not the clicked one, and none that the user has seen
    assert batch.opinions["popularity"].scores[0, 1] == 30.0
    assert np.isnan(batch.opinions["popularity"].scores[0, 2])
    fresh = Transitions("transitions", TransitionsParameters(), seed=1)
    again = Feed(fresh, users=4096)
    again.learn([*events, click("u", "e"), click("u", "a"), click("u", "b")])
    scores = fresh.score(again.view("u"), np.array([one.item_rows["d"], c], dtype=np.int32))
    assert batch.opinions["transitions"].scores[0, :2].tolist() == pytest.approx(scores.tolist(), rel=1e-6)


def test_where_nobody_clicks_anything_again_known_items_do_not_come_first() -> None:
    one = feed()
    one.learn([click(f"u{n}", f"i{(n * 7 + step) % ITEMS}") for n in range(300) for step in range(9)])
    items, view = np.arange(ITEMS, dtype=np.int32), one.view("u7")
    seen = np.array([one.item_rows[f"i{(49 + step) % ITEMS}"] for step in range(9)], dtype=np.int32)
    scores = one.learner.score(dataclasses.replace(view, seen=seen), items)
    assert scores[seen].max() < np.delete(scores, seen).max()


@pytest.mark.parametrize("again", [False, True])
def test_it_is_learned_whether_items_that_were_rated_low_are_clicked(again: bool) -> None:
    """Every user rates one item low; in one stream each of them clicks it in the end, in the other nobody does."""
    one = feed()
    for n in range(400):
        low = f"i{(n * 7 + 30) % ITEMS}"
        steps = [click(f"u{n}", f"i{(n * 7 + step) % ITEMS}") for step in range(5)]
        one.learn([rating(f"u{n}", low, 1.0), *steps, *([click(f"u{n}", low)] if again else [])])
    assert weights(one)["known"] > 2.0 if again else weights(one)["known"] < -1.01


def test_probabilities_give_items_on_the_user_s_list_the_share_that_they_get() -> None:
    """Every click but a user's first is with a chance of .3 on one of the user's items, the sooner the newer, and else on any new one."""
    one, random, walks, shares = feed(), np.random.default_rng(1), dict[str, list[str]](), []
    made = one.learner
    assert isinstance(made, ClickBlend)
    for n in range(3000):
        user = f"u{n % 300}"
        walk = walks.setdefault(user, [])
        if n > 1500 and n % 7 == 0:
            seen = np.array([one.item_rows[item] for item in dict.fromkeys(walk)], dtype=np.int32)
            p = made.probabilities(dataclasses.replace(one.view(user), seen=seen), np.arange(ITEMS, dtype=np.int32))
            assert p.sum() == pytest.approx(1.0, abs=1e-4)
            shares.append(float(p[seen].sum()))
        again = bool(walk) and random.random() < 0.3
        new = [f"i{number}" for number in range(ITEMS) if f"i{number}" not in walk]
        mine = list(dict.fromkeys(reversed(walk)))
        law = np.array([1.0 / (1 + walk[::-1].index(item)) for item in mine])
        walk.append(str(random.choice(mine, p=law / law.sum()) if again else random.choice(new)))
        one.learn([click(user, walk[-1])])
    assert np.mean(shares) == pytest.approx(0.3, abs=0.08)  # a little more: clicks on new items are discounted more


def test_of_the_items_on_the_user_s_list_those_come_first_that_follow_the_last_click() -> None:
    """Users listen to their own songs again and again, in pairs: which pair comes next is chance, the second song is not."""
    one, random = feed(), np.random.default_rng(1)
    for n in range(600):
        own, pair = 4 * (n % 10), 2 * int(random.integers(2))
        one.learn([click(f"u{n % 60}", f"i{own + pair}"), click(f"u{n % 60}", f"i{own + pair + 1}")])
    one.learn([click("u1", "i4")])
    listed = np.array([one.item_rows[f"i{number}"] for number in (5, 6, 7)], dtype=np.int32)
    scores = one.learner.score(dataclasses.replace(one.view("u1"), seen=listed), listed)
    assert np.argmax(scores) == 0
    assert one.learner.tables()["stream"].values[0, LISTED_WEIGHTS + 2] > 0.1
