"""Biased matrix factorisation learns what biases cannot, on any scale, and refuses steps that would ruin it."""

import numpy as np
import pytest

from streamer.checks.batches import Feed, FeedEvent, rating, sample_events
from streamer.core.protocols import ItemVectors
from streamer.models.biased_mf import BiasedMF, BiasedMFParameters


def feed(**parameters: float) -> Feed:
    return Feed(BiasedMF("mf", BiasedMFParameters(**parameters), seed=1))  # type: ignore[arg-type]  # dim is an int


def checkerboard(count: int, low: float = 1.0, high: float = 5.0) -> list[FeedEvent]:
    """Users and items are black or white: 5 where the colours agree, 1 where not. Every bias is 0."""
    random = np.random.default_rng(1)
    pairs = random.integers(0, 20, size=(count, 2)).tolist()
    return [rating(f"u{u}", f"i{i}", high if (u + i) % 2 == 0 else low) for u, i in pairs]


@pytest.mark.parametrize("dim", [8, 32, 64])
def test_it_learns_a_checkerboard(dim: int) -> None:
    events = checkerboard(6000)
    out = feed(dim=dim).learn(events)
    errors = out[-500:] - np.array([event.value for event in events[-500:]])
    assert float(np.sqrt((errors**2).mean())) < 0.5  # biases alone: 2


def test_any_scale_gives_the_same_results() -> None:
    events = sample_events(2000)
    scaled = [event._replace(value=20 * event.value - 10) for event in events]
    once, other = feed().learn(events), feed().learn(scaled)
    late = np.isfinite(once) & (np.arange(len(once)) > 1000)
    assert float(np.abs(20 * once[late] - 10 - other[late]).max()) < 20 * 0.05  # all but the first sigma's trace


def test_similar_items_have_similar_vectors() -> None:
    one = feed()
    one.learn(checkerboard(6000))
    assert isinstance(one.learner, ItemVectors)
    vectors = one.learner.vectors()
    assert vectors.shape[1] == 32
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    black = np.array([int(item[1:]) % 2 == 0 for item in one.item_rows])
    alike = unit @ unit.T
    assert float(alike[black][:, black].mean()) > 0.5
    assert float(alike[black][:, ~black].mean()) < -0.5


def test_steps_that_diverge_are_refused_and_counted() -> None:
    one = feed(learning_rate=50.0, noise=1.0)
    one.learn(checkerboard(3000))
    tables = one.learner.tables()
    assert tables["stream"].values[0, 3] > 0
    assert all(np.isfinite(table.values).all() for table in tables.values())


def test_for_an_unseen_side_the_bias_of_the_other_is_predicted() -> None:
    one = feed()
    one.learn([rating("kind", f"i{n}", 5.0) for n in range(20)] + [rating("strict", f"i{n}", 2.0) for n in range(20)])
    nobody = one.learner.score(one.view("nobody"), np.array([-1], dtype=np.int32))
    kind = one.learner.score(one.view("kind"), np.array([-1], dtype=np.int32))
    assert float(nobody[0]) == pytest.approx(3.5)
    assert float(kind[0]) > 3.7
