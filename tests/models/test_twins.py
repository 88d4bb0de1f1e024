"""Every kernel agrees with its NumPy twin: to 1e-9 in float64, to 1e-5 as stored in float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from streamer.checks.batches import Feed, sample_events, with_changes
from streamer.core.arrays import F64
from streamer.core.batch import Batch
from streamer.core.protocols import OnlineLearner
from streamer.models import LEARNERS, REFITTED_BY, learner
from streamer.models.hybrid.bayesian_hybrid import BayesianHybrid
from streamer.models.networks.gru import GRU, WEIGHTS
from streamer.models.networks.kernel import NORM_RATIOS
from streamer.models.networks.network import Network
from streamer.models.twins import clicks, ratings
from streamer.models.twins.gru import twin_gru
from streamer.models.twins.network import twin_network
from streamer.models.twins.repeats import twin_repeats
from streamer.models.twins.sessions import twin_neighbours

pytestmark = pytest.mark.slow  # each kernel in float64 is compiled for it

TWINS: dict[str, Callable[[Any, Batch], F64]] = {
    "popularity": clicks.twin_popularity,
    "popularity-recent": clicks.twin_recent_popularity,
    "popularity-now": clicks.twin_recent_popularity,
    "bias": ratings.twin_bias,
    "biased-mf": ratings.twin_biased_mf,
    "deep-fm": twin_network,
    "embedding-network": twin_network,
    "bayesian-hybrid": ratings.twin_bayesian_hybrid,
    "bayesian-hybrid-latent": ratings.twin_bayesian_hybrid,
    "bayesian-hybrid-categories": ratings.twin_bayesian_hybrid,
    "bayesian-hybrid-plain": ratings.twin_bayesian_hybrid,
    "stack": ratings.twin_stack,
    "transitions": clicks.twin_transitions,
    "neighbours": twin_neighbours,
    "repeats": twin_repeats,
    "skip-gram": clicks.twin_skip_gram,
    "gru4rec": twin_gru,
    "click-blend": clicks.twin_click_blend,
}


def widened(name: str, dim: int) -> OnlineLearner:
    """The learner with float64 tables, for kernels take their type from the arrays."""
    made = learner(name, seed=1, dim=dim, latent_dim=dim)
    for table in made.tables().values():
        if table.dtype == np.float32:
            table.dtype = np.dtype(np.float64)
            table.start, table.values = table.start.astype(np.float64), table.values.astype(np.float64)
    return made


def trained(made: OnlineLearner) -> OnlineLearner:
    """The learner with what a retraining would give it: numbers in the layers, which are otherwise 0, and other constants."""
    if isinstance(made, BayesianHybrid) and made.user.dtype == np.float64:
        made.tuned.values[0] = np.linspace(0.5, 1.5, made.tuned.width)
        made.restored()
    if isinstance(made, Network):
        row = made.network.values[0, NORM_RATIOS:]
        row[:] = np.random.default_rng(1).normal(0.0, 0.2, len(row))
    if isinstance(made, GRU):
        drawn, row = np.random.default_rng(1), made.network.values[0]
        row[:WEIGHTS], row[WEIGHTS:] = (1.0, -0.5, 4.0), drawn.normal(0.0, 0.2, len(row) - WEIGHTS)
        made.item.start[:-1], made.item.start[-1] = drawn.normal(0.0, 0.5, made.item.width - 1), 1.0
    return made


def test_every_learner_has_a_twin() -> None:
    # Those refitted by a model of their name are biased-mf and skip-gram otherwise, kernel and all.
    same = {name for name, by in REFITTED_BY.items() if by in ("factors", "click-factors")}
    assert TWINS.keys() == LEARNERS.keys() - same
    assert {LEARNERS[name] for name in same} == {LEARNERS["biased-mf"], LEARNERS["skip-gram"]}


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-9), (False, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("dim", [7, 32])  # 7: the kernels' loops of four leave a rest
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(LEARNERS[name])) for name in TWINS])
def test_kernel_agrees_with_its_twin(name: str, dim: int, wide: bool, tolerance: float) -> None:
    made, other = (
        trained(widened(name, dim) if wide else learner(name, seed=1, dim=dim, latent_dim=dim)) for _ in range(2)
    )
    feed, mirror = Feed(made, longest=10), Feed(other, longest=10)  # rings so short that they wrap
    events = with_changes(sample_events(600))
    outs = feed.learn(events, 10)
    vars(other)["learn"] = lambda batch: TWINS[name](other, batch)
    expected = mirror.learn(events, 10)
    np.testing.assert_allclose(outs, expected, rtol=1e-5, atol=1e-5)
    for name_of_table, table in made.tables().items():
        assert table.values.any(), f"{name_of_table} never moved"
        np.testing.assert_allclose(table.values, other.tables()[name_of_table].values, rtol=tolerance, atol=tolerance)
    assert int(feed.ring.counts.max()) > feed.ring.ring
