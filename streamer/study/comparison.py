"""Several models in one picture, compared with their baseline."""

from collections.abc import Sequence
from math import inf, isfinite, nan, sqrt

from streamer.study.diagnosis import Diagnosis
from streamer.study.train import Trained


def share_over_bias_only(found: Trained, diagnosis: Diagnosis) -> tuple[float, float]:
    """Test MSE divided by that of bias only, and the half width of its 95% interval for paired differences.

    (1, NaN) for bias only itself.
    """
    assert found.test_mse is not None
    assert found.bias_only_test_mse is not None
    if found.model == "bias":
        return 1.0, nan
    if not found.bias_only_test_mse:  # bias only makes no error
        return (inf if found.test_mse else 1.0), nan
    return found.test_mse / found.bias_only_test_mse, diagnosis.over_bias_only.half_width / found.bias_only_test_mse


def plot_ratings(chosen: Sequence[tuple[Trained, Diagnosis]]) -> str:
    """Models of ratings as SVG, in this order, with bias only as a line. Raises BadSettings where matplotlib is not installed."""
    from streamer.study.report.figures import dot_plot

    chosen = [(found, diagnosis) for found, diagnosis in chosen if found.model != "bias"] or chosen
    measured = [share_over_bias_only(found, diagnosis) for found, diagnosis in chosen]
    shares = [(share if isfinite(share) else nan, width) for share, width in measured]
    return dot_plot(
        [found.model for found, _ in chosen],
        [share for share, _ in shares],
        [(share - width, share + width) for share, width in shares],
        what="test MSE, as a share of bias only's; lower is better",
        reference=("bias only", 1.0),
    )


def plot_clicks(chosen: Sequence[Trained]) -> str:
    """Next-item models as SVG, in this order, with binomial intervals of their hit rates. Raises as `plot_ratings`."""
    from streamer.study.report.figures import dot_plot

    rates = [found.hit_rate_10 or 0.0 for found in chosen]
    widths = [1.96 * sqrt(rate * (1 - rate) / found.test_events) for rate, found in zip(rates, chosen, strict=True)]
    return dot_plot(
        [found.model for found in chosen],
        rates,
        [(rate - width, rate + width) for rate, width in zip(rates, widths, strict=True)],
        what="hit rate @10 of the last click; higher is better",
        reference=("popularity", chosen[0].popularity_hit_rate_10 or 0.0),
    )
