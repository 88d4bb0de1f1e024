"""Features of users and items: categories, average rating, number of ratings, year and purity.

    purity = 1 - H / ln C,   H the entropy over the C categories of the items a user rated, or of an item

so a user with a single taste has a purity of 1, and one who rates a bit of everything has a low one. All features made of
ratings use the training part alone. A column has mean 0 and deviation 1 over the rated rows; unknown values are 0, and so are
all columns of categories or years where there are none.
Cost: one pass over ratings and categories. Memory: (users + items) x (categories + 4) floats.
"""

import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.dataset import Dataset

SHRINKAGE = 5.0  # imaginary ratings at the overall mean in every average


def features(train: Dataset, z: F64) -> tuple[F32, F32]:
    """Features (users, k) and (items, m); `z` (n,) are the ratings of `train` in deviations above the mean."""
    of_items = train.side.categories.astype(np.float64)
    shares = of_items / np.maximum(of_items.sum(axis=1, keepdims=True), 1.0)  # (items, categories)
    years = _standard(train.side.years.astype(np.float64)[:, None], np.isfinite(train.side.years))
    counts = _counts(train.items, train.item_count)
    items = np.column_stack([_averages(train.items, z, counts), np.log1p(counts), _purity(shares)])
    user_counts = _counts(train.users, train.user_count)
    averages = _averages(train.users, z, user_counts)
    rated = _by_category(train, shares, np.ones(len(train)))  # how many ratings
    tastes = _by_category(train, shares, z - averages[train.users]) / (rated + SHRINKAGE)
    looked = np.bincount(train.users, years[train.items, 0], train.user_count) / np.maximum(user_counts, 1.0)
    users = np.column_stack([averages, np.log1p(user_counts), _purity(rated), looked, tastes])
    roots = of_items / np.sqrt(np.maximum(of_items.sum(axis=1, keepdims=True), 1.0))
    return (
        _standard(users, user_counts > 0).astype(np.float32),
        np.column_stack([_standard(items, counts > 0), years, roots]).astype(np.float32),
    )


def _by_category(train: Dataset, shares: F64, weights: F64) -> F64:
    """(users, categories): the sums of `weights` (n,) of each user's ratings, divided among the item's categories."""
    found = np.zeros((train.user_count, shares.shape[1]))
    for category, share in enumerate(shares.T):
        found[:, category] = np.bincount(train.users, share[train.items] * weights, train.user_count)
    return found


def _counts(rows: I32, count: int) -> F64:
    return np.bincount(rows, minlength=count).astype(np.float64)


def _averages(rows: I32, z: F64, counts: F64) -> F64:
    found: F64 = np.bincount(rows, z, len(counts)) / (counts + SHRINKAGE)
    return found


def _purity(amounts: F64) -> F64:
    """Purity (rows,) of amounts by category (rows, categories); 0 for rows without any."""
    total = amounts.sum(axis=1)
    if amounts.shape[1] < 2:
        return np.zeros(len(amounts))
    shares = amounts / np.where(total > 0, total, 1.0)[:, None]
    entropies = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    found: F64 = np.where(total > 0, 1.0 - entropies / np.log(amounts.shape[1]), 0.0)
    return found


def _standard(columns: Array, known: Array) -> F64:
    """The columns scaled to mean 0 and deviation 1 over the `known` rows; the other rows are 0."""
    found = np.zeros(columns.shape)
    if known.any():
        chosen = columns[known]
        deviations = chosen.std(axis=0)
        found[known] = (chosen - chosen.mean(axis=0)) / np.where(deviations > 1e-9, deviations, 1.0)
    return found
