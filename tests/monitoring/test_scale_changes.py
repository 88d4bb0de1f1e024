"""Changes of the scale of ratings, as tables: which stream, in which order, how many ratings until the change is found."""

import numpy as np
import pytest

from streamer.core.arrays import F64, I64
from streamer.monitoring.scale import Scale

N, HALF, FEW = 3000, 1500, 500  # ratings, the place of the change, and ratings until it is found
RANDOM = np.random.default_rng(5)
USERS: I64 = RANDOM.choice(60, N, p=(weights := RANDOM.lognormal(0, 1, 60)) / weights.sum())  # 3 to 300 ratings each
ITEMS: I64 = RANDOM.choice(150, N, p=(weights := RANDOM.lognormal(0, 1, 150)) / weights.sum())
LIKING = RANDOM.normal(0, 0.5, 60)[USERS] + RANDOM.normal(0, 0.5, 150)[ITEMS] + RANDOM.normal(0, 0.8, N)
STARS = np.clip(np.round(2 * (3.5 + LIKING)), 1, 10) / 2  # 0.5 to 5
WHOLE = np.ceil(STARS)
TO_100 = 1 + (WHOLE - 1) * 99 / 4
ORDERS: dict[str, I64] = {
    "in turns": np.arange(N),
    "user by user": np.argsort(USERS, kind="stable"),
    "item by item": np.argsort(ITEMS, kind="stable"),
}

# two scales of the same opinions: tried from the first to the second, and back
SCALES: list[tuple[str, F64, F64]] = [
    ("0.5 to 5, 10 to 100", STARS, 20 * STARS),
    ("1 to 5, 1 to 100", WHOLE, TO_100),
    ("0.5 to 5, 5 to 50", STARS, 10 * STARS),
    ("0.5 to 5, 1 to 10", STARS, 2 * STARS),
    ("0.5 to 5, 0 to 10", STARS, (STARS - 0.5) * 10 / 4.5),
    ("1 to 5, 1 to 10", WHOLE, 1 + (WHOLE - 1) * 9 / 4),
    ("1 to 5, 2 to 10", WHOLE, 2 * WHOLE),
]


def found(values: F64, users: I64, items: I64) -> tuple[Scale, list[int]]:
    """The scale after these ratings, and after how many it was converted."""
    scale = Scale()
    scale.silent = True
    rated = np.ones(len(values), np.bool_)
    changes = scale.follow(
        rated, values.astype(np.float32), users.astype(np.uint64), items.astype(np.int32), 0.8
    ).changes
    return scale, [one.at for one in changes]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    ("before", "after"),
    [*(pair for _, first, second in SCALES for pair in ((first, second), (second, first))), (4 * (STARS - 2.5), WHOLE)],
    ids=[*(f"{name}{back}" for name, *_ in SCALES for back in ("", ", back")), "-8 to 10, 1 to 5"],
)
def test_a_change_is_found_within_a_few_hundred_ratings_in_any_order(before: F64, after: F64, order: I64) -> None:
    scale, changes = found(np.where(np.arange(N) < HALF, before[order], after[order]), USERS[order], ITEMS[order])
    assert scale.changes == 1
    assert HALF < changes[0] <= HALF + FEW
    width = after.max() - after.min()
    assert (scale.low, scale.high) == pytest.approx((after.min(), after.max()), abs=0.2 * width)


def with_one(value: float) -> F64:
    return np.where(np.arange(N) == HALF, value, STARS)


HARSH = np.where(RANDOM.random(60) < 0.2, 1, 0)[USERS] == 1  # a fifth of the users keep to the lower half
BAD = np.where(RANDOM.random(150) < 0.1, 1, 0)[ITEMS] == 1  # a tenth of the items are bad, and all users say so
SAME: list[tuple[str, F64]] = [
    ("0.5 to 5", STARS),
    ("1 to 100", TO_100),
    ("harsh users", np.where(HARSH, np.clip(STARS - 2, 0.5, 2.5), STARS)),
    ("bad items", np.where(BAD, np.clip(STARS - 2, 0.5, 2.5), STARS)),
    ("one 50", with_one(50)),
    ("one 100", with_one(100)),
    ("0 and 1", (LIKING > 0) * 1.0),
    ("plays", np.floor(np.exp(1 + 1.2 * LIKING)) + 1),
    ("plays, a heavy tail", np.floor((1 - RANDOM.random(N)) ** -1.1)),
    ("-10 to 10", np.clip(np.round(2 + 5 * LIKING), -10, 10)),
]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("values", [row[1] for row in SAME], ids=[row[0] for row in SAME])
def test_a_scale_that_stays_has_no_change_in_any_order(values: F64, order: I64) -> None:
    scale, changes = found(values[order], USERS[order], ITEMS[order])
    assert (scale.changes, changes) == (0, [])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("lowest", [1, 2])
@pytest.mark.parametrize("of", ["a user", "an item"])
def test_a_hundred_bad_ratings_of_one_user_or_one_item_are_no_change(of: str, lowest: int, order: I64) -> None:
    same, others = np.full(100, 999), 1000 + np.arange(100)
    users, items = (same, others) if of == "a user" else (others, same)
    values = np.insert(STARS[order], HALF, np.resize(np.arange(lowest) / 2 + 0.5, 100))
    scale, changes = found(values, np.insert(USERS[order], HALF, users), np.insert(ITEMS[order], HALF, items))
    assert (scale.changes, changes) == (0, [])
