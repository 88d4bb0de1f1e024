"""The benchmarks hold peers to the protocol of `streamer evaluate`, do without the peers' packages, and write tables that say what was measured."""

import json
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from learning import settings

from benchmarks import contest, figures, rerank, tables, world
from benchmarks.contest import Outcome
from benchmarks.peers import PEERS, missing, peer
from benchmarks.report import Report
from benchmarks.run import competitors
from benchmarks.speed import MEASURED, compared
from benchmarks.stream import read
from streamer.consumers.files import FileSource
from streamer.core.arrays import F32
from streamer.core.batch import RATING, Batch, Seen
from streamer.core.seed import id_key
from streamer.models import LEARNERS, learner
from streamer.study.evaluate import Evaluation, evaluate

ROOT = Path(__file__).parent.parent
NOTHING = Seen(np.empty((0, 1), np.int32), np.empty((0, 0), np.int32), np.empty(0, np.int64), 1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings with ties in time, repeated ones, events given twice and a bad one."""
    file, random = tmp_path_factory.mktemp("benchmarks") / "events.jsonl", np.random.default_rng(7)
    lines: list[dict[str, object]] = [
        {"item_id": f"i{n}", "title": f"Film {n}", "categories": ["Drama"]} for n in range(9)
    ]
    for n in range(1500):
        event = {
            "user_id": f"u{random.integers(30)}",
            "item_id": f"i{int(random.zipf(1.5)) % 60}",
            "timestamp_ms": n // 3,
        }
        what = {"kind": "click"} if n % 4 == 0 else {"rating": float(random.integers(1, 11)) / 2}
        lines.append({**event, **what, "event_id": f"e{n % 1400}"})
    file.write_text("\n".join([*map(json.dumps, lines), '{"user_id": 3}']))
    return file


def evaluated(name: str, path: Path) -> Evaluation:
    return evaluate(name, settings(), lambda: FileSource(path), rank=True, progress=lambda done, of: None)


class BiasAsPeer:
    """Our `bias` behind the peers' protocol, an event at a time."""

    def __init__(self, users: int, items: int) -> None:
        self.learner = learner("bias", seed=1)
        for table in self.learner.tables().values():
            if table.side != "stream":
                rows = np.arange(users if table.side == "user" else items, dtype=np.int32)
                table.reserve(len(rows))
                table.begin(rows, [id_key(1, table.side, str(row)) for row in rows.tolist()])

    def predict_then_learn(self, user: int, item: int, rating: float) -> float:
        one = np.zeros(1)
        batch = Batch(
            np.full(1, RATING, np.uint8), np.full(1, user, np.int32), np.full(1, item, np.int32),
            np.full(1, rating, np.float32), one.astype(np.float32), one.astype(np.int64), one.astype(np.uint64),
            np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32), one.astype(np.int64), NOTHING,
        )  # fmt: skip
        return float(self.learner.learn(batch)[0])


def test_the_protocol_of_ratings_is_that_of_evaluate(path: Path) -> None:
    events = read(path, settings())
    made = BiasAsPeer(events.user_count, len(events.item_ids))
    predicted, seconds = contest.predict(events, made)
    found, wanted = figures.ratings(events, predicted), evaluated("bias", path)
    assert len(predicted) == wanted.ratings
    for name in ("rmse", "rmse_last_half", "rmse_new_users", "rmse_new_items", "unpredicted"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-9), name
    assert seconds > 0
    ratings = [len(part) for part in np.array_split(predicted, 100)]
    assert np.sqrt(np.average(found.squares, weights=ratings)) == pytest.approx(found.rmse, abs=1e-9)


class Counted:
    """Popularity, as a peer."""

    def __init__(self) -> None:
        self.counts = Counter[int]()

    def score(self, user: int, count: int) -> F32:
        return np.array([self.counts[item] for item in range(count)], dtype=np.float32)

    def learn(self, user: int, item: int) -> None:
        self.counts[item] += 1


def test_the_protocol_of_clicks_is_that_of_evaluate(path: Path) -> None:
    ranks, _ = contest.ranked(read(path, settings()), Counted())
    found, wanted = figures.clicks(ranks), evaluated("popularity", path)
    for name in ("queries", "hit_rate_10", "hit_rate_20", "ndcg_20"):
        assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-12), name


@pytest.mark.parametrize("name", ["bias", "skip-gram"])
def test_ours_are_measured_as_evaluate_measures_them(name: str, path: Path) -> None:
    outcome, wanted = contest.run_ours(name, path, settings()), evaluated(name, path)
    found = outcome.ratings or outcome.clicks
    assert found is not None
    for field in msgspec.structs.fields(type(found)):
        if hasattr(wanted, field.name):
            assert getattr(found, field.name) == pytest.approx(getattr(wanted, field.name), abs=1e-9), field.name
    assert (outcome.events_per_second or 0) > 0
    assert (outcome.evaluate_events_per_second or 0) > 0


def test_predictions_are_clipped_to_the_range_seen_before() -> None:
    ones = np.ones(3, dtype=np.float32)
    events = read_by_hand(values=[4.0, 2.0, 4.0], lows=[-np.inf, 4, 2], highs=[np.inf, 4, 4])
    found = figures.ratings(events, np.array([3.0, 9.0, 3.0]) * ones)
    assert found.rmse == pytest.approx(np.sqrt((1 + 4 + 1) / 3))  # 9 counts as 4
    assert found.rmse_last_half == pytest.approx(np.sqrt((4 + 1) / 2))
    missing = figures.ratings(events, np.array([3.0, np.nan, 3.0]))
    assert (missing.rmse, missing.unpredicted) == (1.0, 1)


def read_by_hand(values: list[float], lows: list[float], highs: list[float]) -> figures.Events:
    n = len(values)
    rows, zeros = np.zeros(n, dtype=np.int32), np.zeros(n, dtype=np.float32)
    given = (np.array(column, dtype=np.float32) for column in (values, lows, highs))
    value, low, high = given
    return figures.Events(np.ones(n, dtype=np.bool_), rows, rows, value, zeros, low, high, 1, ["a"], [[]])


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_resolves_and_runs_or_is_skipped_with_words(name: str, path: Path) -> None:
    found = peer(name)
    assert set(found.space) <= {field.name for field in msgspec.structs.fields(found.Settings)}
    for setting, values in found.space.items():
        assert found.tuned is None or getattr(found.tuned, setting) in values, "the best is one of those tried"
    outcome = contest.run_peer(name, "tuned" if found.tuned else "default", read(path, settings()), 1)
    assert (outcome.name, outcome.kind, outcome.package) == (name, found.kind, found.package)
    if missing(name):
        assert f"{found.package} is not installed" in (outcome.skipped or "")
    else:
        measured = outcome.ratings or outcome.clicks
        assert measured is not None
        assert (outcome.events_per_second or 0) > 0


def test_a_peer_without_its_package_is_skipped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer("river-baseline"), "package", "no-such-distribution")
    outcome = contest.run_peer("river-baseline", "default", read(path, settings()), 1)
    assert outcome.skipped == "no-such-distribution is not installed: `make bench` installs requirements/bench.lock"
    assert outcome.ratings is None


def test_all_of_ours_and_both_variants_of_each_peer_compete() -> None:
    chosen = list(competitors())
    assert {(name, "default") for name in [*LEARNERS, *PEERS]} <= set(chosen)
    assert {(name, "tuned") for name in PEERS if peer(name).tuned is not None} <= set(chosen)
    assert len(chosen) == len(set(chosen))


def report() -> Report:
    squares = [1.0] * 100

    def rated(name: str, side: str, variant: str, rmse: float) -> Outcome:
        ratings = figures.Ratings(rmse, rmse, None, rmse, 0, squares)
        outcome = {"name": name, "side": side, "kind": "ratings", "variant": variant, "parameters": {"rate": 0.5}}
        return msgspec.convert(outcome | {"ratings": ratings, "events_per_second": 123456.7}, Outcome)

    clicks = figures.Clicks(9, 0.5, 0.75, 0.25, squares)
    absent = Outcome(
        name="implicit-als", side="peer", kind="clicks", variant="tuned", parameters={}, skipped="implicit is not installed",
    )  # fmt: skip
    rounds = {name: [100.0 * n, 300.0 * n] for n, name in enumerate(MEASURED, 1)}
    return Report(
        stream="hand-made", events=3, ratings=2, clicks=1, users=1, items=1, machine="a desk", versions={"river": None},
        minutes=2.0, defaults=["bayesian-hybrid", "skip-gram"], outcomes=[
            rated("river-baseline", "peer", "tuned", 1.25), rated("bayesian-hybrid", "ours", "default", 0.875),
            Outcome(name="skip-gram", side="ours", kind="clicks", variant="default", parameters={}, clicks=clicks), absent,
        ],
        speed=compared("bayesian-hybrid", rounds),
    )  # fmt: skip


def test_tables_say_what_was_measured_best_first_and_name_what_did_not_run(tmp_path: Path) -> None:
    tables.save(report(), tmp_path)
    assert tables.load("hand-made", tmp_path) == report()
    page = (tmp_path / "hand-made.md").read_text().splitlines()
    ours = "| **`bayesian-hybrid`** (default) | .8750 | .8750 | - | .8750 | 123,000 | - |"
    peers = "| `river-baseline`, tuned | 1.2500 | 1.2500 | - | 1.2500 | 123,000 | - |"
    assert page.index(ours) + 1 == page.index(peers)
    assert "| **`skip-gram`** (default) | .5000 | .7500 | .2500 | - | - |" in page
    assert "- `implicit-als`, tuned: implicit is not installed" in page
    assert "- `river-baseline`, tuned: rate 0.5" in page
    assert any(line.startswith("- ") and "river not installed" in line for line in page)


def test_speeds_are_compared_within_a_round_and_with_the_faster_of_the_two() -> None:
    rounds = {"evaluate": [30.0, 10.0, 40.0], "river-default": [10.0, 5.0, 10.0], "river-tuned": [8.0, 8.0, 20.0]}
    found = compared("bias", rounds)
    assert found.medians == {"evaluate": 30.0, "river-default": 10.0, "river-tuned": 8.0}
    assert found.over_river["evaluate"] == 2.0  # of 3, 1.25 and 2


def test_the_readme_shows_what_the_last_run_measured() -> None:
    written = tables.readme(tables.load(tables.SHOWN))
    assert written in (ROOT / "README.md").read_text(), "run python -m benchmarks.tables"
    assert {tables.SHOWN, world.NAME} <= set(tables.measured())
    for name in tables.measured():
        assert (tables.RESULTS / f"{name}.md").read_text() == tables.page(tables.load(name))


def test_rerankers_are_measured_on_the_clicks_that_evaluate_asks_about(path: Path) -> None:
    chosen = settings(rating_learner="bias", click_learner="popularity-recent", reranker="bias", rerank_candidates=5)
    (found,), events = rerank.worth(str(path), chosen, ["bias"])
    said = evaluate("popularity-recent", chosen, lambda: FileSource(path, 1), rank=True, progress=lambda done, of: None)
    assert (found.queries, events) == (said.queries, said.events)
    assert found.hit_rate == found.reranked_hit_rate == said.hit_rate_10, "the first 5 in any order are the first 10"
    chosen = settings(rating_learner="bias", click_learner="popularity-recent", reranker="bias")
    (found,), _ = rerank.worth(str(path), chosen, ["bias"])
    assert found.hit_rate == said.hit_rate_10 != found.reranked_hit_rate
    assert found.difference == pytest.approx(found.reranked_hit_rate - found.hit_rate)
    assert found.low <= found.difference <= found.high


def test_the_page_of_the_reranker_is_what_was_measured() -> None:
    measured = msgspec.json.decode((rerank.RESULTS / "rerank.json").read_bytes(), type=rerank.Measured)
    assert (rerank.RESULTS / "rerank.md").read_text() == rerank.page(measured)
    assert sum(measured.served.outcomes.values()) >= measured.served.queries
