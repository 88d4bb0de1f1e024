"""The gate: paired squared errors, an interval of their mean, and a verdict."""

from math import inf, sqrt

import numpy as np
import pytest
from learning import settings

from streamer.core.answers import Score
from streamer.monitoring.monitor import Errors
from streamer.renormalise import gate
from streamer.renormalise.gate import BLOCKS, MOST_RATINGS, compare, interval, rollback_reason, verdict

CHOSEN = settings(gate_min_events=100, gate_margin=0.01).renormalisation


def observed(squares: list[float], name: str = "biased-mf") -> Errors:
    errors = Errors(name)
    errors.observe(np.array(squares))
    return errors


def paired(
    ratings: int, difference: float, half_width: float | None, *, before: float = 1.0, after: float = 1.0
) -> Score:
    return Score(
        learner="biased-mf",
        ratings=ratings,
        before_rmse=before,
        after_rmse=after,
        difference=difference,
        half_width=half_width,
    )


def test_the_interval_comes_from_the_means_of_forty_blocks() -> None:
    """Blocks of two: the means alternate between 1 and 3, so their standard deviation is known."""
    mean, half_width = interval(np.array([0.5, 1.5, 2.0, 4.0] * (BLOCKS // 2)))
    assert mean == 2.0
    by_hand = sqrt(40 * 1.0 / 39)  # each of 40 block means is 1 from their mean
    students_t = 2.0227  # as tables have it: 39 degrees of freedom, two-sided 95%
    assert half_width == pytest.approx(students_t * by_hand / sqrt(40), rel=1e-3)


def test_runs_of_similar_differences_make_the_interval_wider() -> None:
    """As bursts of one user are: the same values in runs are less evidence than in mixed order."""
    values = np.random.default_rng(1).normal(size=800)
    assert interval(np.sort(values))[1] > 3 * interval(values)[1]


def test_too_few_pairs_have_no_interval() -> None:
    assert interval(np.ones(2 * BLOCKS - 1)) == (1.0, inf)
    assert interval(np.ones(2 * BLOCKS)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("difference", "half_width", "ratings", "better", "expected"),
    [
        (0.000, 0.005, 500, False, True),  # below the margin of .01 with all of its interval
        (0.020, 0.005, 500, False, False),  # above it with all
        (0.008, 0.005, 500, False, None),  # astride
        (0.012, 0.005, 500, False, None),  # astride, with the mean above
        (0.008, 0.005, MOST_RATINGS, False, True),  # astride, and there will never be more: the mean says
        (0.012, 0.005, MOST_RATINGS, False, False),
        (0.000, 0.005, 99, False, None),  # too few
        (0.050, 0.005, 99, False, None),
        (0.000, None, 500, False, None),  # no interval
        (0.000, 0.005, 500, True, None),  # to be better there is no margin
        (-0.006, 0.005, 500, True, True),
        (0.006, 0.005, 500, True, False),
    ],
)
def test_verdicts(
    difference: float, half_width: float | None, ratings: int, better: bool, expected: bool | None
) -> None:
    assert verdict(paired(ratings, difference, half_width), CHOSEN, better=better) is expected


def test_the_margin_is_a_share_of_the_live_generations_squared_error() -> None:
    half = paired(500, 0.004, 0.0, before=0.5)  # of .25: a margin of .0025
    assert verdict(half, CHOSEN) is False
    assert verdict(paired(500, 0.004, 0.0), CHOSEN) is True


def test_only_ratings_after_the_cut_count_and_the_newest_of_these() -> None:
    before, after = observed([9.0] * 200 + [4.0] * 300), observed([1.0] * 200 + [1.0] * 300)
    score = compare(before, after, 200)
    assert score is not None
    assert (score.ratings, score.before_rmse, score.after_rmse, score.difference) == (300, 2.0, 1.0, -3.0)


def test_of_too_many_ratings_the_newest_are_compared() -> None:
    """A thousand old ratings with large errors of both, and 8,000 new ones."""
    score = compare(observed([9.0] * 1000 + [4.0] * 8000), observed([25.0] * 1000 + [1.0] * 8000), 0)
    assert score is not None
    assert (score.ratings, score.before_rmse, score.after_rmse) == (MOST_RATINGS, 2.0, 1.0)


def test_a_generation_that_is_behind_is_compared_on_the_ratings_of_both() -> None:
    score = compare(observed([4.0] * 150 + [100.0] * 30), observed([1.0] * 150), 100)
    assert score is not None
    assert (score.ratings, score.before_rmse) == (50, 2.0)
    assert compare(observed([4.0] * 100), observed([1.0] * 100), 100) is None


def test_there_is_no_score_when_only_one_predicted_a_rating() -> None:
    assert compare(observed([float("nan"), *[4.0] * 200]), observed([1.0] * 201), 0) is None


def test_there_is_no_score_when_new_ratings_overwrite_the_compared_ones() -> None:
    """While the errors of one are read, the other may learn more than its ring holds."""
    assert compare(observed([4.0] * 100), observed([1.0] * 30_000), 0) is None


def test_the_live_generation_is_rolled_back_when_it_is_worse_or_only_its_errors_drift() -> None:
    bad, equal = paired(500, 0.2, 0.01, after=1.1), paired(500, 0.002, 0.001)
    assert rollback_reason(None, CHOSEN, alarm=True) == ""
    assert rollback_reason(bad, CHOSEN, alarm=False).startswith(
        "worse than the one before: biased-mf RMSE 1.1000 against 1.0000"
    )
    assert rollback_reason(equal, CHOSEN, alarm=False) == ""
    assert rollback_reason(equal, CHOSEN, alarm=True).startswith("a drift alarm: biased-mf RMSE 1.0000 against 1.0000")
    assert rollback_reason(paired(500, 0.001, 0.002), CHOSEN, alarm=True) == ""  # no worse for sure
    assert gate.describe(None) == "no ratings"
