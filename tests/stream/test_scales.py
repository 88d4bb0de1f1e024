"""Streams whose scale is not what it seems: how many ratings are likes, and how well the others are predicted."""

from pathlib import Path

import numpy as np
import pytest
from learning import records, settings

from streamer.core.arrays import F64, Bool
from streamer.core.events import Rating
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

N, HALF, SETTLED = 1200, 600, 300  # ratings; when a scale changes; ratings until learners have adapted
NAMES = ("bayesian-hybrid", "biased-mf", "bias", "stack", "deep-fm")
RANDOM = np.random.default_rng(7)
USERS, ITEMS = np.divmod(RANDOM.permutation(30 * 60)[:N], 60)  # no pair twice: a rating anew has no error
LIKING = 3.4 + RANDOM.normal(0, 0.6, 30)[USERS] + RANDOM.normal(0, 0.6, 60)[ITEMS] + RANDOM.normal(0, 0.7, N)
STARS = np.clip(np.round(LIKING), 1, 5)
LATER, ADAPTED, ALL = np.arange(N) >= HALF, np.arange(N) >= HALF + SETTLED, np.ones(N, dtype=np.bool_)
TO_100 = 1 + (STARS - 1) * 99 / 4


def learned(folder: Path, values: F64) -> tuple[dict[str, F64], float, Memory]:
    """Errors of each learner before each rating, (n,), the number of likes, and the memory."""
    chosen = settings(shadow=",".join(NAMES[1:]))
    store = RocksStore(folder)
    memory = Memory(learners(chosen), chosen, store)
    rated = [
        Rating(f"u{user}", f"i{item}", float(value), 1_600_000_000_000 + 1000 * n)
        for n, (user, item, value) in enumerate(zip(USERS, ITEMS, values, strict=True))
    ]
    errors: dict[str, list[F64]] = {name: [] for name in NAMES}
    likes, stream = 0.0, records(rated)
    for start in range(0, N, 250):
        for part, batch in memory.encoder.encode(stream[start : start + 250], memory.commit):
            predicted = memory.learners.learn(batch)
            memory.monitor.observe(batch, predicted)
            memory.ledger.advance(part)
            likes += batch.clicks.sum()
            for name in NAMES:
                errors[name].append(predicted[name].astype(np.float64) - batch.values)
    store.close()
    return {name: np.concatenate(parts) for name, parts in errors.items()}, float(likes), memory


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, F64]:
    return learned(tmp_path_factory.mktemp("clean"), STARS)[0]


def with_one(place: int, value: float) -> F64:
    return np.where(np.arange(N) == place, value, STARS)


GOOD, BEST = STARS >= 4, STARS == 5
# values; which of them are likes; which are compared with those of the clean stream, in units of it; how much larger their RMSE may be
STREAMS: list[tuple[str, F64, Bool, Bool, float, float]] = [
    ("one 10", with_one(400, 10), GOOD, np.arange(N) != 400, 1.0, 0.01),
    ("one 100", with_one(400, 100), GOOD, np.arange(N) != 400, 1.0, 0.01),
    ("one -100", with_one(400, -100), GOOD, np.arange(N) != 400, 1.0, 0.01),
    ("an early 100", with_one(10, 100), GOOD, np.arange(N) != 10, 1.0, 0.01),
    ("2% of 50", np.where(np.arange(N) % 50 == 49, 50, STARS), GOOD, np.arange(N) % 50 != 49, 1.0, 0.02),
    ("1 to 100", TO_100, BEST, ALL, 24.75, 0.02),
    ("1 to 5, then 1 to 100", np.where(LATER, TO_100, STARS), np.where(LATER, BEST, GOOD), ADAPTED, 24.75, 0.05),
    ("1 to 100, then 1 to 5", np.where(LATER, STARS, TO_100), np.where(LATER, GOOD, BEST), ADAPTED, 1.0, 0.05),
    ("1 to 5, then 2 to 10", np.where(LATER, 2 * STARS, STARS), GOOD, ADAPTED, 2.0, 0.05),
    ("-10 to 10", 5 * (STARS - 3), BEST, ALL, 5.0, 0.01),
]


@pytest.mark.parametrize(
    ("values", "liked", "compared", "unit", "more"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS]
)
def test_the_other_ratings_are_predicted_as_in_the_clean_stream(
    values: F64, liked: Bool, compared: Bool, unit: float, more: float, tmp_path: Path, clean: dict[str, F64]
) -> None:
    errors, likes, memory = learned(tmp_path, values)
    for name in NAMES:
        there, here = (float(np.sqrt(np.mean(np.square(one[compared])))) for one in (clean[name], errors[name] / unit))
        assert here < (1 + more) * there, name
    assert likes == pytest.approx(liked.sum(), rel=0.06)
    counted = memory.monitor.errors["bias"]
    assert counted.squared == pytest.approx(np.square(errors["bias"]).sum(), rel=1e-5)
