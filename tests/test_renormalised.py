"""What renormalising is worth is measured rating for rating, and the gate stands between a candidate and the answers."""

from math import inf

import numpy as np
import pytest
from learning import settings

from streamer.consumers.stream import StreamSource
from streamer.evaluate import evaluate
from streamer.producers.simulate import World
from streamer.renormalised import Renormalised, Trial, renormalised, tenths
from streamer.training import ALL, Candidate

WORLD = World(users=150, items=80, events=20_000, turn=0.0)
CHOSEN = settings(rating_learner="biased-mf", click_learner="popularity", gate_min_events=500)


def tried(trial: Trial, **flags: object) -> Renormalised:
    chosen = settings(rating_learner="biased-mf", click_learner="popularity", **{"gate_min_events": 500, **flags})
    return renormalised(chosen, lambda: StreamSource(WORLD.stream(catalogue_first=True)), trial, lambda done, of: None)


@pytest.fixture(scope="module")
def found() -> Renormalised:
    return tried(Trial(6000, (ALL, Candidate(half_life_days=0.5))))


def test_online_only_is_what_evaluate_reports(found: Renormalised) -> None:
    online = evaluate(
        "biased-mf",
        CHOSEN,
        lambda: StreamSource(WORLD.stream(catalogue_first=True)),
        rank=False,
        progress=lambda done, of: None,
    )
    assert found.online_rmse == pytest.approx(online.rmse, rel=1e-12)
    assert found.online_rmse_tenths == pytest.approx(online.rmse_tenths, rel=1e-12)
    assert found.online_regret == pytest.approx(online.regret, rel=1e-9)


def test_until_the_first_swap_nothing_differs_and_a_good_candidate_gains(found: Renormalised) -> None:
    assert found.rmse_tenths[:3] == found.online_rmse_tenths[:3]
    assert (found.difference or 0.0) + (found.half_width or 0.0) < 0
    assert (found.rmse or inf) < (found.online_rmse or 0.0)
    assert (found.regret_last_days or inf) < (found.online_regret_last_days or 0.0)


def test_every_candidate_of_every_cut_is_accounted_for(found: Renormalised) -> None:
    assert [(one.cut_events, one.candidate) for one in sorted(found.generations, key=lambda one: (one.cut_events, one.candidate))] == [
        (cut, name) for cut in (6000, 12_000, 18_000) for name in ("all", "half-life:0.5")
    ]  # fmt: skip
    assert {one.outcome for one in found.generations} <= {"promoted", "rejected", "rolled back", "undecided"}
    assert all(one.churn is not None and one.churn.item_cosine is not None for one in found.generations)
    promoted = [one for one in found.generations if one.outcome == "promoted"]
    assert promoted
    assert all(one.ratings >= 500 for one in promoted)


def test_it_is_deterministic(found: Renormalised) -> None:
    again = tried(Trial(6000, (ALL, Candidate(half_life_days=0.5))))
    assert (again.rmse, again.rmse_tenths) == (found.rmse, found.rmse_tenths)


def test_a_gate_that_nothing_passes_leaves_the_stream_as_it_was() -> None:
    found = tried(Trial(9000), gate_min_events=10_000)
    assert {one.outcome for one in found.generations} == {"undecided"}
    assert found.rmse_tenths == found.online_rmse_tenths
    assert (found.difference, found.half_width) == (0.0, 0.0)


def test_tenths_are_by_count() -> None:
    assert tenths(np.repeat(np.arange(10.0), 3) ** 2) == tuple(float(n) for n in range(10))
    assert tenths(np.ones(9)) == ()
