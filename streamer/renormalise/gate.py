"""The gate: compares two generations on the same ratings, pair by pair; each rating was predicted before it was learned.

    d_k = (candidate's error of rating k)^2 - (live generation's error of rating k)^2;  mean(d) +- t s / sqrt(blocks)

where s is the standard deviation of the means of blocks of consecutive ratings: neighbouring ratings are often of one user
and not independent (batch means; Law & Kelton, "Simulation Modeling and Analysis", ch. 9).
"""

from math import inf, sqrt

from streamer.core.answers import Score
from streamer.core.arrays import F64
from streamer.core.settings import RenormalisationSettings
from streamer.monitoring.monitor import Errors

# How many of the newest ratings are compared at most; the monitor keeps a few more, so that it can write while this reads
MOST_RATINGS = 8_000
BLOCKS = 40
T_95 = 2.023  # two-sided 95% of Student's t with 39 degrees of freedom


def compare(before: Errors, after: Errors, since: int) -> Score | None:
    """Compares both on the ratings from number `since` on, at most the newest 8,000.

    None while there are none, or when one of the two left a rating without a prediction that the other predicted. Callable
    from any thread. Cost: about 50 us.
    """
    end = min(before.ratings, after.ratings)
    first = max(since, end - MOST_RATINGS)
    if end <= first or before.unpredicted != after.unpredicted:
        return None
    try:
        ours, theirs = after.squares(first, end), before.squares(first, end)
    except ValueError:  # new ratings overwrote the oldest ones meanwhile: the next call succeeds
        return None
    mean, half_width = interval(ours - theirs)
    return Score(
        learner=after.learner,
        ratings=end - first,
        before_rmse=sqrt(float(theirs.mean())),
        after_rmse=sqrt(float(ours.mean())),
        difference=mean,
        half_width=half_width if half_width < inf else None,
    )


def interval(differences: F64) -> tuple[float, float]:
    """Mean of paired differences (n,), in order, and half the width of its 95% interval; infinite for fewer than 80."""
    n = len(differences) - len(differences) % BLOCKS
    if n < 2 * BLOCKS:
        return float(differences.mean()), float("inf")
    means = differences[-n:].reshape(BLOCKS, -1).mean(axis=1)
    return float(differences.mean()), T_95 * float(means.std(ddof=1)) / sqrt(BLOCKS)


def verdict(score: Score, chosen: RenormalisationSettings, *, better: bool = False) -> bool | None:
    """Whether the generation "after" passes. None: not decided yet.

    It passes if it is worse by at most the share `gate_margin` of the squared error "before". With `better`, the margin is 0.
    """
    allowed = 0.0 if better else chosen.gate_margin * score.before_rmse**2
    if score.ratings < chosen.gate_min_events or score.half_width is None:
        return None
    if score.difference + score.half_width <= allowed:
        return True
    if score.difference - score.half_width > allowed:
        return False
    return None if score.ratings < MOST_RATINGS else score.difference <= allowed


def rollback_reason(score: Score | None, chosen: RenormalisationSettings, *, alarm: bool) -> str:
    """Why the live generation is to be rolled back; empty if it is not.

    `alarm`: a drift was detected in its errors and none in those of the generation before.
    """
    if score is None:
        return ""
    if verdict(score, chosen) is False:
        return f"worse than the one before: {describe(score)}"
    if alarm and score.half_width is not None and score.difference > score.half_width:
        return f"a drift alarm: {describe(score)}"
    return ""


def describe(score: Score | None) -> str:
    """A score in words."""
    if score is None:
        return "no ratings"
    return (
        f"{score.learner} RMSE {score.after_rmse:.4f} against {score.before_rmse:.4f} on the same {score.ratings:,} ratings "
        f"(squared error {score.difference:+.5f}" + (f" +- {score.half_width:.5f})" if score.half_width else ")")
    )
