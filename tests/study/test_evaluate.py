"""`streamer evaluate`: its figures compared with hand-checked streams and a plain computation of the same definitions."""

import contextlib
import json
import os
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import inf, log2, sqrt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from commands import run
from learning import records, settings
from process import command

from streamer.consumers.files import FileSource
from streamer.consumers.memory import MemorySource
from streamer.core.arrays import F32, I32
from streamer.core.batch import RATING, Batch, UserView
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.events import Click, Event, Rating
from streamer.core.protocols import Kind
from streamer.core.tables import Table
from streamer.models import LEARNERS
from streamer.models.popularity import AllTimeParameters
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory
from streamer.study.evaluate import Evaluation, evaluate
from streamer.study.ranking import rank


def evaluated(name: str, chosen: Sequence[Event | bytes], *, ranking: bool = True, **flags: object) -> Evaluation:
    source = MemorySource(records(chosen))
    return evaluate(name, settings(**flags), lambda: source, rank=ranking, progress=lambda done, of: None)


def test_ranks_of_a_stream_that_can_be_checked_by_hand() -> None:
    chosen: list[Event | bytes] = [
        Click("u1", "a"),  # the first click ever of a: a miss, and it counts
        Click("u2", "a"),  # the only candidate: rank 1
        Click("u2", "b"),  # a miss
        Click("u1", "b"),  # not against a, which u1 has clicked: rank 1
        Click("u3", "c"),  # a miss
        Click("u3", "a"),  # a and b have two clicks each: half a rank for the tie
        Click("u2", "a"),  # clicked before: asks nothing
        Click("u4", "d", "dislike"),  # no click
        Rating("u4", "c", 3.0),  # the highest so far, so a like: behind a and b
        Rating("u5", "b", 1.0),  # no like
    ]
    found = evaluated("popularity", chosen)
    assert (found.events, found.ratings, found.clicks, found.queries) == (10, 2, 8, 7)
    assert found.hit_rate_10 == found.hit_rate_20 == 4 / 7
    assert found.ndcg_20 == pytest.approx((1 + 1 + 1 / log2(2.5) + 1 / log2(4)) / 7, abs=1e-12)


def test_ties_count_half_and_a_nan_is_never_ranked() -> None:
    scores = np.array([5, 3, 3, 3, 1, np.nan], dtype=np.float32)
    nobody = np.zeros(0, dtype=np.int32)
    assert rank(scores, 0, nobody) == 1
    assert rank(scores, 1, nobody) == 3  # one above, two beside
    assert rank(scores, 1, np.array([0, 2], dtype=np.int32)) == 1.5
    assert rank(scores, 4, nobody) == 5
    assert rank(scores, 5, nobody) == inf


def test_hit_rates_of_ten_and_twenty_end_where_they_say() -> None:
    chosen: list[Event | bytes] = [
        Click(f"u{n}", f"i{i}") for i in range(20) for n in range(20 - i)
    ]  # i0 first, i19 last
    misses = len(chosen)
    before = evaluated("popularity", chosen)
    after = evaluated("popularity", [*chosen, Click("x", "i9"), Click("y", "i10"), Click("z", "i19")])
    hits = [(found.hit_rate_10 or 0) * (found.queries or 0) for found in (before, after)]
    assert round(hits[1] - hits[0]) == 1  # i9 is tenth, i10 eleventh (i9 has one more now), i19 twentieth
    hits = [(found.hit_rate_20 or 0) * (found.queries or 0) for found in (before, after)]
    assert round(hits[1] - hits[0]) == 3
    assert misses == before.queries


def world(count: int) -> list[Event | bytes]:
    """Ratings and clicks by few users on few items, so that everything repeats but ratings, which would replace one another."""
    random, rated = np.random.default_rng(7), set[tuple[str, str]]()
    chosen: list[Event | bytes] = []
    for n in range(count):
        user, item = f"u{random.integers(30)}", f"i{int(random.zipf(1.5)) % 60}"
        rating = Rating(user, item, float(random.integers(1, 11)) / 2, 3000 * n)  # clicks are 3 s apart
        clicked = n % 4 == 0 or (user, item) in rated
        chosen.append(Click(user, item, "click", 3000 * n) if clicked else rating)
        rated.add((user, item))
    return chosen


def test_errors_and_ranks_equal_a_plain_computation_of_their_definitions(tmp_path: Path) -> None:
    chosen = world(3000)
    found = evaluated("bias", chosen, click_learner="popularity", max_records=170)
    made, store = settings(rating_learner="bias", click_learner="popularity"), RocksStore(tmp_path)
    memory = Memory(learners(made), made, store)
    squares: dict[str, list[float]] = defaultdict(list)
    by_user, by_item = Counter[str](), Counter[str]()
    counts, clicked, ranks, likes = Counter[str](), defaultdict[str, set[str]](set), [], 0.0
    for record, event in zip(records(chosen), chosen, strict=True):
        assert isinstance(event, Rating | Click)
        for _, batch in memory.encoder.encode([record], memory.commit):
            predicted = memory.learners.learn(batch)["bias"]
        if isinstance(event, Rating):
            squares["all"].append((float(predicted[0]) - event.rating) ** 2)
            if by_user[event.user_id] < 10:
                squares["users"].append(squares["all"][-1])
            if by_item[event.item_id] < 10:
                squares["items"].append(squares["all"][-1])
            by_user[event.user_id] += 1
            by_item[event.item_id] += 1
            likes = max(likes, event.rating)
        if isinstance(event, Rating) and event.rating < 0.8 * likes:
            continue
        if event.item_id not in clicked[event.user_id]:
            others = {item: n for item, n in counts.items() if item not in clicked[event.user_id]}
            mine = others.pop(event.item_id, None)
            higher = [1.0 if n > (mine or 0) else 0.5 for n in others.values() if n >= (mine or 0)]
            ranks.append(inf if mine is None else 1 + sum(higher))
        counts[event.item_id] += 1
        clicked[event.user_id].add(event.item_id)
    store.close()

    def rmse(chosen: list[float]) -> Any:
        return pytest.approx(sqrt(sum(chosen) / len(chosen)), abs=1e-9)

    assert found.rmse == rmse(squares["all"])
    assert found.rmse_last_half == rmse(squares["all"][len(squares["all"]) // 2 :])
    assert found.rmse_new_users == rmse(squares["users"])
    assert found.rmse_new_items == rmse(squares["items"])
    assert found.queries == len(ranks)
    assert found.hit_rate_10 == sum(r <= 10 for r in ranks) / len(ranks)
    assert found.hit_rate_20 == sum(r <= 20 for r in ranks) / len(ranks)
    assert found.ndcg_20 == pytest.approx(sum(1 / log2(1 + r) for r in ranks if r <= 20) / len(ranks), abs=1e-12)


def test_the_figures_do_not_depend_on_the_micro_batches_or_on_evicted_users() -> None:
    chosen = world(700)
    first = evaluated("biased-mf", chosen, max_records=1000)
    for other in (
        evaluated("biased-mf", chosen, max_records=7),
        evaluated("biased-mf", chosen, max_records=100, user_cache_bytes=1),
    ):
        for name in ("rmse", "rmse_last_half", "rmse_new_users", "rmse_new_items", "queries", "hit_rate_10", "ndcg_20"):
            assert getattr(first, name) == pytest.approx(getattr(other, name), abs=1e-12), name


def test_it_says_how_well_the_stated_uncertainty_fits() -> None:
    found, none = (evaluated(name, world(1500), ranking=False) for name in ("bayesian-hybrid", "bias"))
    assert found.coverage_80 == pytest.approx(0.8, abs=0.04)
    assert found.log_score_gain is not None
    assert abs(found.log_score_gain) < 0.2
    assert (none.coverage_80, none.log_score_gain) == (None, None)


def test_figures_that_do_not_apply_are_null() -> None:
    clicks = evaluated("popularity", [Click("u1", "a"), Click("u2", "a")])
    assert (clicks.rmse, clicks.rmse_last_half, clicks.rmse_new_users, clicks.rmse_new_items) == (None,) * 4
    assert (clicks.ratings, clicks.hit_rate_10) == (0, 0.5)
    disliked = evaluated("bias", [Rating("u1", "a", -2.0), Rating("u2", "a", -1.0)])
    assert (disliked.clicks, disliked.hit_rate_10, disliked.hit_rate_20, disliked.ndcg_20) == (0, None, None, None)
    assert disliked.ranking_seconds is None
    assert disliked.rmse is not None
    unranked = evaluated("bias", world(100), ranking=False)
    assert (unranked.queries, unranked.hit_rate_10, unranked.ranking_seconds) == (None, None, None)
    assert unranked.clicks > 0
    nothing = evaluated("bias", [b"{"])
    assert (nothing.events, nothing.dead_letters, nothing.events_per_second, nothing.rmse) == (0, 1, None, None)


def test_bad_and_repeated_events_are_counted_and_left_out() -> None:
    chosen: list[Event | bytes] = [Rating("u1", "a", 4.0, event_id="e"), Rating("u1", "a", 4.0, event_id="e"), b"no"]
    found = evaluated("bias", chosen)
    assert (found.events, found.duplicates, found.dead_letters) == (1, 1, 1)


@pytest.mark.parametrize("name", ["bayesian-hybrid", "bias"])
def test_ratings_written_twice_read_as_ratings_written_once(movielens: Path, tmp_path: Path, name: str) -> None:
    """900 of them, in any order in which copies can come: RMSE was .654 for .759 when each was a second witness."""
    header, *rows = (movielens / "ratings.csv").read_text().splitlines()[:901]
    files = {"once": rows, "one after the other": rows + rows, "side by side": [row for row in rows for _ in (0, 1)]}
    found = {}
    for called, lines in files.items():
        path = tmp_path / f"{called}.csv"
        path.write_text("\n".join([header, *lines]) + "\n")
        found[called] = msgspec.json.decode(run("evaluate", path, "--learner", name, "--no-ranking", "--json"))
    for called in ("one after the other", "side by side"):
        assert found[called]["rmse"] == pytest.approx(found["once"]["rmse"], rel=0.01)
        assert (found[called]["ratings"], found[called]["repeated"], found[called]["replaced"]) == (900, 900, 0)


def test_the_learner_replaces_the_champion_of_its_kind() -> None:
    found = evaluated("popularity-recent", world(50), rating_learner="bias")
    assert (found.learner, found.rating_learner, found.click_learner) == (
        "popularity-recent",
        "bias",
        "popularity-recent",
    )
    with pytest.raises(BadSettings, match=r"no learner 'biased-fm'; choose one of: .*bayesian-hybrid, .*biased-mf"):
        evaluated("biased-fm", world(5))


def test_shadows_are_scored_in_the_same_run() -> None:
    alone = {name: evaluated(name, world(200), ranking=False) for name in ("bias", "biased-mf")}
    found = evaluated("bias", world(200), ranking=False, shadow="biased-mf, popularity")
    assert found.rmse_by_learner == {name: one.rmse for name, one in alone.items()}
    assert (found.rating_learner, found.rmse) == ("bias", alone["bias"].rmse)


class BatchReader:
    """A learner whose predictions depend on the whole batch, including future events."""

    kind: Kind = "ratings"
    Parameters = AllTimeParameters

    def __init__(self, name: str, parameters: AllTimeParameters, *, seed: int) -> None:
        self.name, self.parameters = name, parameters

    def tables(self) -> dict[str, Table]:
        return {}

    def learn(self, batch: Batch) -> F32:
        mean = batch.values[batch.kinds == RATING].mean() if np.any(batch.kinds == RATING) else 0.0
        return np.where(batch.kinds == RATING, mean, np.nan).astype(np.float32)

    def predict(self, batch: Batch) -> F32:
        return np.zeros(len(batch), dtype=np.float32)

    def score(self, user: UserView, items: I32) -> F32:
        return np.zeros(len(items), dtype=np.float32)


def test_a_learner_that_looks_ahead_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LEARNERS, "batch-reader", f"{__name__}:BatchReader")
    with pytest.raises(StreamerError, match="two passes over the same events gave different errors"):
        evaluated("batch-reader", world(200))


def test_the_command_prints_one_object_and_keeps_nothing(tmp_path: Path) -> None:
    with (tmp_path / "events.jsonl").open("w") as file:
        for event in world(300):
            assert isinstance(event, Rating | Click)
            what = {"rating": event.rating} if isinstance(event, Rating) else {"kind": event.kind}
            print(json.dumps({"user_id": event.user_id, "item_id": event.item_id, **what}), file=file)
    printed = run("evaluate", "events.jsonl", "--learner", "bias", "--json", cwd=tmp_path)
    assert printed.count("\n") == 1
    found = json.loads(printed)
    for name in (
        "learner", "events", "ratings", "clicks", "rmse", "rmse_last_half", "rmse_new_users", "rmse_new_items",
        "hit_rate_10", "hit_rate_20", "ndcg_20", "events_per_second", "ranking_seconds", "wall_seconds",
    ):  # fmt: skip
        assert found[name] is not None, name
    assert (found["learner"], found["events"]) == ("bias", 300)
    assert [path.name for path in tmp_path.iterdir()] == ["events.jsonl"]
    shown = run("evaluate", "events.jsonl", "--learner", "bias", cwd=tmp_path)
    assert f"{found['rmse']:.4f}" in shown
    assert f"{found['hit_rate_10']:.4f}" in shown


def test_bad_input_gets_a_sentence(tmp_path: Path) -> None:
    assert "there is no nowhere" in run("evaluate", "nowhere", code=78, cwd=tmp_path)
    assert "--rate" in run("evaluate", "nowhere", "--rate", "3", code=2, cwd=tmp_path)


def test_the_default_and_the_stack_beat_the_other_learners_in_one_run(movielens: Path) -> None:
    found = evaluate(
        "bayesian-hybrid",
        settings(shadow="stack,bias,biased-mf"),
        lambda: FileSource(movielens),
        rank=False,
        progress=lambda done, of: None,
    )
    rmse = {name: value or inf for name, value in found.rmse_by_learner.items()}
    assert rmse["bayesian-hybrid"] == found.rmse
    assert rmse["bayesian-hybrid"] <= 0.848
    assert rmse["bayesian-hybrid"] <= 0.97 * min(rmse["bias"], rmse["biased-mf"])
    assert rmse["stack"] <= 0.9995 * rmse["bayesian-hybrid"]
    assert len(rmse) == 7  # the stack's experts too
    assert rmse["biased-mf"] <= 0.895
    assert rmse["bias"] <= 0.89


def test_a_signal_leaves_no_temporary_state_behind(tmp_path: Path) -> None:
    path, temporary = tmp_path / "ratings.csv", tmp_path / "tmp"
    temporary.mkdir()
    lines = (f"u{n % 997},i{n % 499},{1 + n % 5},{1_600_000_000 + n}\n" for n in range(300_000))
    path.write_text("user,item,rating,timestamp\n" + "".join(lines))
    process = subprocess.Popen(
        command("evaluate", path),
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not list(temporary.glob("streamer-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.terminate()
    assert process.wait(10) == 130
    assert list(temporary.iterdir()) == []
