"""How `streamer evaluate` ranks clicks: each figure of small streams by hand, learners side by side, streams side by side."""

import json
from collections.abc import Sequence
from math import log2, sqrt
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import invoke, run
from learning import records, settings

from streamer.consumers.memory import MemorySource
from streamer.core.events import Click, Event
from streamer.models import learner
from streamer.models.click_blend.click_blend import ClickBlend
from streamer.study.click_figures import Group, Repeats, earlier, half_width, quarters
from streamer.study.clicked import FIRST_USERS, ClickedItems
from streamer.study.evaluate import Evaluation, evaluate

AGAIN: list[Event | bytes] = [
    Click("u1", "a"),  # a miss
    Click("u2", "a"),  # the only candidate
    Click("u2", "b"),  # a miss
    Click("u2", "a"),  # again: a has two clicks, b one
    Click("u1", "b"),  # a has three; behind it where it is a candidate
    Click("u1", "a"),  # again: three clicks to two
]


def evaluated(
    chosen: Sequence[Event | bytes], repeats: Repeats = "exclude", *, rank_experts: bool = False, **flags: object
) -> Evaluation:
    source, made = (
        MemorySource(records(chosen)),
        settings(**{"click_learner": "popularity", "rating_learner": "bias"} | flags),
    )
    return evaluate(
        made.learning.click_learner, made, lambda: source, rank=True, progress=lambda done, of: None, repeats=repeats,
        rank_experts=rank_experts,
    )  # fmt: skip


def test_without_repeats_an_item_is_asked_for_once_and_the_users_own_are_no_candidates() -> None:
    found = evaluated(AGAIN)  # ranks inf, 1, inf, no query, 1, no query
    assert (found.clicks, found.queries, found.repeats, found.repeated_share) == (6, 4, "exclude", 2 / 6)
    assert (found.hit_rate_10, found.hit_rate_20, found.ndcg_20, found.mrr_20) == (0.5, 0.5, 0.5, 0.5)
    of_popularity = found.click_learners["popularity"]
    assert of_popularity.by_history == (Group((0, 0), 2, 0.5), Group((1, 2), 2, 0.5), Group((3, 9), 0, None), Group((10, None), 0, None))  # fmt: skip
    assert of_popularity.by_popularity == (Group((0, 0), 2, 0.0), Group((1, 1), 2, 1.0))


def test_with_repeats_every_click_is_asked_for_among_all_items() -> None:
    found = evaluated(AGAIN, "allow")  # ranks inf, 1, inf, 1, 2, 1
    assert (found.queries, found.repeats, found.repeated_share) == (6, "allow", 2 / 6)
    assert (found.hit_rate_10, found.hit_rate_20) == (4 / 6, 4 / 6)
    assert found.ndcg_20 == pytest.approx((3 + 1 / log2(3)) / 6, abs=1e-12)
    assert found.mrr_20 == pytest.approx(3.5 / 6, abs=1e-12)
    of_popularity = found.click_learners["popularity"]
    assert [group.queries for group in of_popularity.by_history] == [2, 4, 0, 0]
    assert of_popularity.by_popularity == (Group((0, 0), 2, 0.0), Group((1, 1), 2, 1.0), Group((2, 2), 1, 1.0), Group((3, 3), 1, 1.0))  # fmt: skip


def test_within_sessions_every_click_but_the_first_is_asked_for_with_repeats() -> None:
    for repeats in ("exclude", "allow"):
        found = evaluated(AGAIN, repeats)  # ranks inf, 1, 2, 1: here a user is one session
        assert (found.sessions, found.session_queries) == (2, 4)
        assert (found.session_hit_rate_20, found.session_mrr_20) == (3 / 4, 2.5 / 4)
    assert evaluated([Click("u1", "a"), Click("u2", "a")]).session_hit_rate_20 is None


def test_sessions_are_those_that_the_stream_names_whatever_is_left_out_between_them() -> None:
    chosen: list[Event | bytes] = [
        Click("u1", "a", event_id="e1", session_id="s1"),
        Click("u1", "a", event_id="e1", session_id="s1"),  # delivered twice
        Click("u1", "b", session_id="s1"),  # the second of its session: a miss
        b'{"user_id": "u1", "session_id": "s1"}',
        Click("u1", "c", session_id="s2"),  # a new session
        Click("u1", "a", session_id="s2"),  # the second one: three items with one click each, rank 2
        Click("u1", "b", "dislike", session_id="s3"),  # begins a session, and is no click
        Click("u1", "b", session_id="s3"),  # so this is the first of it
        Click("u2", "a", session_id="s1"),  # the same name, another user
    ]
    for records_a_batch in (1, 3, 100):
        found = evaluated(chosen, max_records=records_a_batch)
        assert (found.duplicates, found.dead_letters) == (1, 1)
        assert (found.sessions, found.session_queries) == (4, 2)
        assert (found.session_hit_rate_20, found.session_mrr_20) == (1 / 2, 0.5 / 2)


def test_as_data_allows_repeats_from_a_tenth_of_the_clicks_on() -> None:
    few: list[Event | bytes] = [Click(f"u{n}", "a") for n in range(10)]
    tenth = [*few[:9], Click("u0", "a")]
    for chosen, how, share in (
        (few, "exclude", 0.0),
        (tenth, "allow", 0.1),
        ([*few, Click("u0", "a")], "exclude", 1 / 11),
    ):
        found = evaluated(chosen, "as-data")
        assert (found.repeats, found.repeated_share) == (how, pytest.approx(share))
        assert found.queries == (10 if how == "allow" else len({str(one) for one in chosen}))


def test_an_interval_is_by_user() -> None:
    users = np.array([3, 3, 1], dtype=np.int32)
    assert half_width(np.array([1.0, 0.0, 1.0]), users, 2 / 3) == pytest.approx(1.96 * sqrt(2 / 9 * 2) / 3)
    assert half_width(np.array([1.0, 0.0]), users[:2], 0.5) is None
    random = np.random.default_rng(3)
    counts, taste = random.geometric(0.1, 300), random.random(300)
    users = np.repeat(np.arange(300, dtype=np.int32), counts)
    values = random.random(len(users)) < taste[users]
    sums, drawn = np.bincount(users, weights=values), random.integers(300, size=(4000, 300))
    resampled = np.std(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    assert half_width(values, users, float(values.mean())) == pytest.approx(1.96 * resampled, rel=0.1)
    as_if_independent = 1.96 * sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert resampled * 1.96 > 1.5 * as_if_independent


def test_quarters_keep_ties_together() -> None:
    assert quarters(np.arange(8)) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert quarters(np.array([0, 0, 0, 0, 0, 1, 2, 3])) == [(0, 0), (1, 1), (2, 3)]
    assert quarters(np.array([5])) == [(5, 5)]
    assert quarters(np.array([], dtype=np.int64)) == []
    assert earlier(np.array([4, 2, 4, 4, 2], dtype=np.int32)).tolist() == [0, 0, 1, 2, 1]


def world(count: int, seed: int = 5) -> list[Event | bytes]:
    random = np.random.default_rng(seed)
    return [Click(f"u{random.integers(25)}", f"i{int(random.zipf(1.6)) % 40}") for _ in range(count)]


def test_learners_rank_side_by_side_as_each_does_alone() -> None:
    chosen = world(300)
    found = evaluated(chosen, shadow="transitions,popularity-recent,bias")
    assert list(found.click_learners) == ["popularity", "transitions", "popularity-recent"]
    for name, one in found.click_learners.items():
        assert one == evaluated(chosen, click_learner=name).click_learners[name]
    assert found.hit_rate_10 == found.click_learners["popularity"].hit_rate_10
    assert found.click_learners["transitions"] != found.click_learners["popularity"]


def test_experts_rank_on_request_alone() -> None:
    chosen, blend = world(200), learner("click-blend", seed=1)
    assert isinstance(blend, ClickBlend)
    assert list(evaluated(chosen, click_learner="click-blend").click_learners) == ["click-blend"]
    found = evaluated(chosen, click_learner="click-blend", rank_experts=True)
    experts = {name for name in blend.experts if name != "ratings" and learner(name, seed=1).kind == "clicks"}
    assert set(found.click_learners) == {"click-blend", *experts}
    assert (
        found.click_learners["transitions"]
        == evaluated(chosen, click_learner="transitions").click_learners["transitions"]
    )


def test_what_each_of_many_users_clicked_is_known() -> None:
    clicked, count = ClickedItems(), 5 * FIRST_USERS
    for n in range(2 * count):
        user = clicked.number(f"u{n % count}")
        assert user == n % count
        clicked.add(user, n)
    for n in range(count):
        assert clicked.items(n).tolist() == [count + n, n]
    assert clicked.items(clicked.number("nobody")).tolist() == []


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, seed in (("shop", 1), ("music", 2)):
        lines = [f"{one.user_id},{one.item_id}\n" for one in world(120, seed) if isinstance(one, Click)]
        (tmp_path / f"{name}.csv").write_text("user,item\n" + "".join(lines))
    (tmp_path / "none.csv").write_text("user,item\n,\n")
    return tmp_path


PLAIN = ("--click-learner", "popularity", "--rating-learner", "bias")


def test_streams_are_shown_side_by_side(files: Path) -> None:
    chosen = ("evaluate", "shop.csv", "music.csv", *PLAIN, "--shadow", "transitions")
    listed = json.loads(run(*chosen, "--json", cwd=files))
    assert [one["stream"] for one in listed] == ["shop.csv", "music.csv"]
    for one in listed:
        alone = json.loads(run("evaluate", one["stream"], *chosen[3:], "--json", cwd=files))
        assert alone["click_learners"] == one["click_learners"]
    lines = run(*chosen, cwd=files).splitlines()
    places = [next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("shop.csv", "music.csv")]
    for place, one in zip(places, listed, strict=True):
        for line, name in zip(lines[place + 1 :], ("popularity", "transitions"), strict=False):
            figures = one["click_learners"][name]
            shown = [f"{figures[key]:.4f}" for key in ("hit_rate_10", "hit_rate_20", "ndcg_20", "mrr_20", "session_hit_rate_20", "session_mrr_20")]  # fmt: skip
            width = f"{figures['half_widths']['hit_rate_10']:.4f}"
            assert line.split() == [name, shown[0], "±", width, *shown[1:]]


def test_a_stream_that_cannot_be_read_leaves_the_others(files: Path) -> None:
    ended = invoke("evaluate", "none.csv", "music.csv", *PLAIN, "--json", code=1, cwd=files)
    assert [one["stream"] for one in json.loads(ended.stdout)] == ["music.csv"]
    assert "none.csv" in ended.stderr
    assert "there is no nowhere" in invoke("evaluate", "music.csv", "nowhere", *PLAIN, code=78, cwd=files).stderr


def test_seeds_are_runs_of_their_own(files: Path) -> None:
    chosen = ("evaluate", "shop.csv", *PLAIN, "--shadow", "skip-gram", "--seed", "4")
    listed = json.loads(run(*chosen, "--seeds", "2", "--json", cwd=files))
    assert [one["seed"] for one in listed] == [4, 5]
    rates = [one["click_learners"]["skip-gram"]["hit_rate_10"] for one in listed]
    assert listed[1]["click_learners"] == json.loads(run(*chosen[:-1], "5", "--json", cwd=files))["click_learners"]
    assert listed[0]["click_learners"]["skip-gram"] != listed[1]["click_learners"]["skip-gram"]
    shown = run(*chosen, "--seeds", "2", cwd=files)
    assert f"{np.mean(rates):.4f} ± {np.std(rates, ddof=1):.4f}" in shown
    assert "between seeds" in shown
    said = run("evaluate", "shop.csv", "--seeds", "2", "--renormalise-every-events", "1000", code=2, cwd=files)
    assert "one PATH and one seed" in said


def test_one_stream_shows_what_was_done_with_repeats_and_who_is_served(files: Path) -> None:
    shown = run("evaluate", "shop.csv", *PLAIN, "--repeats", "as-data", "--shadow", "transitions", cwd=files)
    found = msgspec.json.decode(
        run("evaluate", "shop.csv", *PLAIN, "--repeats", "allow", "--json", cwd=files), type=Evaluation
    )
    assert found.repeated_share is not None
    assert f"{found.repeated_share:.1%}" in shown
    assert "on the user's own items, ranked too" in shown
    assert "own items, in sessions only" in run("evaluate", "shop.csv", *PLAIN, cwd=files)
    for group in (*found.click_learners["popularity"].by_history, *found.click_learners["popularity"].by_popularity):
        rate = "-" if group.hit_rate_10 is None else f"{group.hit_rate_10:.4f}"
        assert any(f"{group.queries:,} " in line and rate in line for line in shown.splitlines())
