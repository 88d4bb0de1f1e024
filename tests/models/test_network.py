"""Networks serve what torch has fitted without torch, and online change only the rows of a rating's user and item."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from learning import settings
from process import DEADLINE_S, streamer
from training import Fed

from streamer.checks.batches import Feed, FeedEvent, categories_of, rating
from streamer.models import learner, trainer
from streamer.models.networks.kernel import NORM_RATIOS
from streamer.models.networks.network import Network
from streamer.renormalise.training import refit

NETWORKS = ("deep-fm", "embedding-network")


def by_category(count: int) -> list[FeedEvent]:
    """All users rate items of category 0 with 5 and the rest with 1."""
    drawn = np.random.default_rng(1).integers(0, 100, size=(count, 2)).tolist()
    return [rating(f"u{u % 40}", f"i{i}", 5.0 if categories_of(f"i{i}")[0] & 1 else 1.0) for u, i in drawn]


def trained(name: str, events: list[FeedEvent]) -> tuple[Feed, Feed]:
    """Two feeds with the same history: retrained, and learned online only."""
    feed, online = Feed(learner(name, seed=1)), Feed(learner(name, seed=1))
    online.learn(events)
    fitted = trainer("network")
    fitted.fit(feed.learner, feed.batch(events), lambda share: None)
    for called, values in fitted.export().items():
        feed.tables()[called].values[:] = values
    return feed, online


@pytest.mark.parametrize("name", NETWORKS)
def test_a_retraining_learns_categories_for_unseen_items(name: str) -> None:
    feed, online = trained(name, by_category(3000))
    new = [f"i{n}" for n in range(100, 200)]
    good = np.array([categories_of(item)[0] & 1 for item in new], dtype=bool)

    def said(of: Feed) -> np.ndarray:  # type: ignore[type-arg]  # float32, one an item
        batch = of.batch([rating("newcomer", item, 3.0) for item in new])
        return of.learner.predict(batch)

    assert np.ptp(said(online)) == 0.0  # nobody rated them, and the layers are 0
    assert said(feed)[good].min() > said(feed)[~good].max()
    assert said(feed)[good].mean() > said(feed)[~good].mean() + 1.0


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_fixed_between_retrainings(name: str) -> None:
    feed, _ = trained(name, by_category(1000))
    before = feed.tables()["network"].values.copy()
    feed.learn(by_category(500))
    assert np.array_equal(feed.tables()["network"].values, before)
    assert not feed.tables()["network"].touched.any()
    assert before[0, NORM_RATIOS:].any()


def test_steps_do_not_overshoot_the_error() -> None:
    feed = Feed(learner("deep-fm", seed=1))
    assert isinstance(feed.learner, Network)
    row = feed.learner.network.values[0, NORM_RATIOS:]
    row[:] = np.random.default_rng(1).normal(0.0, 1.0, len(row))  # slopes of hundreds
    feed.learn(by_category(200))
    last, times = rating("u1", "i1", 4.0), 30
    out = feed.learn([last] * times, 1)
    assert abs(out[-1] - 4.0) < 0.5
    assert feed.learner.refused == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_torch_networks_are_carried_over_and_others_refitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Fed(tmp_path, settings(rating_learner="bias", click_learner="popularity", shadow=("deep-fm",)), events=500)
    for module in [found for found in sys.modules if found.startswith("streamer.models.offline.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torch", None)  # as where it is not installed
    found = refit(fed.memory, fed.events())
    assert set(found.tables) == {"bias", "popularity", "popularity-recent"}
    assert "deep-fm is carried over as it is" in caplog.text
    assert "streamer-recs[offline]" in caplog.text
    fed.store.close()


WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            with open(os.environ["SEEN"], "a") as seen:
                print(os.getpid(), file=seen)
sys.meta_path.insert(0, Watch())
"""


def test_torch_never_enters_the_process_that_serves(tmp_path: Path) -> None:
    """Neither for a shadow, a re-ranker or a champion, nor for a retraining, which runs in another process."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    seen, found = tmp_path / "seen", os.environ.get("PYTHONPATH", "")
    env = {"SEEN": str(seen), "PYTHONPATH": f"{tmp_path}{os.pathsep}{found}"}
    flags = "--rating-learner bias --click-learner popularity --shadow deep-fm --reranker deep-fm --rerank-deadline-ms 10000"
    with streamer(tmp_path / "data", *flags.split(), env=env) as process:
        events: list[object] = [
            {"rating": {"userId": f"u{n % 20}", "itemId": f"i{n % 31}", "rating": 1 + n % 5}} for n in range(200)
        ]
        events += [{"click": {"userId": "u1", "itemId": "i30", "kind": "click"}}]
        process.call("EventService/Publish", events=events)
        process.wait_for('streamer_events_total{outcome="learned",topic="clicks"}', 1)
        answer = process.call("RecommendationService/Recommend", userId="u1", limit=3)
        sources = {item["source"] for item in answer["items"]}  # type: ignore[attr-defined]  # JSON
        assert sources == {"deep-fm (re-ranked popularity)"}
        assert process.metrics()['streamer_rerank_seconds_count{learner="deep-fm",outcome="reranked"}'] == 1
        process.call("AdminService/Promote", learner="deep-fm")
        assert process.call("RecommendationService/Predict", userId="u1", itemId="i2")["source"] == "deep-fm"
        process.call("AdminService/Renormalise")
        deadline = time.monotonic() + DEADLINE_S
        while not seen.exists():  # the watch works: whoever trains is seen
            assert time.monotonic() < deadline, process.output.read_text()
            assert not process.pause(0.05), process.output.read_text()
        assert str(process.process.pid) not in seen.read_text().split()
