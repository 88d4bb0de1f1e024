"""The stack starts as its first expert, learns which experts are right, and stays within bounds."""

from collections.abc import Sequence

import numpy as np

from streamer.core.arrays import F32, F64, Array
from streamer.core.batch import Batch, Opinion, Seen
from streamer.models.blend import EVENTS, REFUSED, SMALLEST, WEIGHTS, Stack, StackParameters

NONE = np.empty((0, 0), dtype=np.float32)


def stack(*experts: str) -> Stack:
    return Stack("stack", StackParameters(experts=experts), seed=1)


def learned(made: Stack, values: Array, *said: Array) -> F32:
    """The stack's predictions (n,) for ratings of these values, given the predictions of each expert."""
    n, zeros = len(values), np.zeros(len(values), dtype=np.int32)
    seen = Seen(np.empty((0, 1), dtype=np.int32), np.empty((0, 1), dtype=np.int32), np.empty(0, dtype=np.int64), 1)
    lows = np.full(n, -np.inf, dtype=np.float32)
    opinions = {name: Opinion(one.astype(np.float32), NONE) for name, one in zip(made.experts, said, strict=True)}
    batch = Batch(
        np.zeros(n, dtype=np.uint8), zeros, zeros, values.astype(np.float32), lows, np.zeros(n, dtype=np.int64),
        np.zeros(n, dtype=np.uint64), lows, -lows, np.zeros(n, dtype=np.int64), seen, opinions,
    )  # fmt: skip
    return made.learn(batch)


def weights(made: Stack) -> F64:
    """The weights of the differences from the first expert, of its own difference from the mean, and of the constant."""
    row: F64 = made.stream.values[0, WEIGHTS : WEIGHTS + len(made.experts) + 1]
    return row


def covariance(made: Stack) -> F64:
    n = len(made.experts) + 1
    square = np.zeros((n, n))
    square[np.tril_indices(n)] = made.stream.values[0, WEIGHTS + n :]
    return square + np.tril(square, -1).T


def rmse(values: Array, predicted: Array) -> float:
    return float(np.sqrt(np.mean((predicted.astype(np.float64) - values) ** 2)))


def ratings(count: int) -> tuple[F64, F64]:
    """A truth around 3, and ratings of it with a noise of .5."""
    random = np.random.default_rng(1)
    truth = 3.0 + random.normal(size=count)
    return truth, truth + 0.5 * random.normal(size=count)


def test_it_starts_as_its_first_expert() -> None:
    said = np.array([3.0, 4.0, 2.5])
    predicted = learned(stack("a", "b"), np.array([3.0, 5.0, 1.0]), said, said + 2)
    np.testing.assert_array_equal(predicted[:2], said[:2])  # all ratings so far alike: there is no scale
    assert abs(predicted[2] - said[2]) < 0.1


def test_it_finds_the_expert_that_is_right() -> None:
    truth, values = ratings(5000)
    made = stack("mean", "right", "wrong")
    predicted = learned(made, values, np.full(5000, 3.0), truth, 6.0 - truth)
    assert rmse(truth[2000:], predicted[2000:]) < 0.05
    difference = weights(made)[0] - weights(made)[1]  # 6 - truth is as good as truth with the opposite sign
    assert abs(difference - 1.0) < 0.05


def test_two_experts_with_errors_of_their_own_are_better_together() -> None:
    truth, values = ratings(20_000)
    random = np.random.default_rng(2)
    a, b = (truth + 0.6 * random.normal(size=len(truth)) for _ in range(2))
    predicted = learned(stack("a", "b"), values, a, b)
    assert rmse(values[5000:], predicted[5000:]) < 0.95 * min(rmse(values[5000:], one[5000:]) for one in (a, b))


def test_it_is_hardly_ever_worse_than_its_first_expert_while_it_learns() -> None:
    truth, values = ratings(3000)
    random = np.random.default_rng(3)
    useless = [3.0 + random.normal(size=len(truth)) for _ in range(4)]
    predicted = learned(stack("right", "u", "v", "w", "x"), values, truth, *useless)
    for count, share in ((100, 1.05), (300, 1.02), (1000, 1.02), (3000, 1.01)):
        assert rmse(values[:count], predicted[:count]) < share * rmse(values[:count], truth[:count])


def test_any_scale_of_ratings_gives_the_same_results() -> None:
    truth, values = ratings(2000)
    random = np.random.default_rng(4)
    said = [truth + 0.5 * random.normal(size=len(truth)) for _ in range(2)]
    made, tenfold = stack("a", "b"), stack("a", "b")
    predicted = learned(made, values, *said)
    np.testing.assert_allclose(
        learned(tenfold, 10 * values + 7, *(10 * one + 7 for one in said)), 10 * predicted + 7, rtol=1e-4
    )
    np.testing.assert_allclose(weights(made), weights(tenfold), atol=1e-4)


def test_an_expert_without_a_prediction_counts_as_agreeing_with_the_first() -> None:
    truth, values = ratings(1000)
    silent, echo = stack("a", "b"), stack("a", "b")
    assert (
        learned(silent, values, truth, np.full(1000, np.nan)).tobytes() == learned(echo, values, truth, truth).tobytes()
    )
    nobody = learned(silent, np.array([4.0]), np.array([np.nan]), np.array([np.inf]))
    assert abs(nobody[0] - values.mean()) < 0.2  # the mean is what is left


def test_covariance_is_bounded_when_events_say_nothing() -> None:
    made = stack("a", "b", "c")
    truth, values = ratings(1000)
    learned(made, values, truth, truth + 0.1, truth - 0.2)
    for _ in range(20):  # 20,000 events that excite nothing, 7 times over what doubles a variance
        learned(made, np.full(1000, 3.0), *(np.full(1000, 3.0) for _ in range(3)))
        found = covariance(made)
        assert np.all(np.diag(found) <= made.priors * (1 + 1e-12))
        assert np.linalg.eigvalsh(found).min() > -SMALLEST
    assert np.all(np.abs(weights(made)) < 2)


def test_values_that_are_not_finite_teach_nothing() -> None:
    made = stack("a", "b")
    truth, values = ratings(100)
    learned(made, values, truth, truth)
    before = made.stream.values.copy()
    learned(made, np.array([np.nan, np.inf]), np.ones(2), np.ones(2))
    before[0, REFUSED] += 2
    np.testing.assert_array_equal(made.stream.values, before)
    assert before[0, EVENTS] == 100
    assert made.refused == 2


def test_experts_can_be_chosen() -> None:
    experts: Sequence[str] = stack("bias", "biased-mf").experts
    assert list(experts) == ["bias", "biased-mf"]
