"""The kernel of `repeats`, in plain NumPy."""

import numpy as np

from streamer.core.arrays import F64, I64, Array
from streamer.core.batch import Batch
from streamer.models.repeats import (
    AGAIN,
    CLASSES,
    CLICKS,
    COUNTED,
    COUNTS,
    GAPS,
    HABITS,
    LIST,
    OWN_CLICKS,
    OWN_REPEATS,
    REPEATED,
    TICKS,
    UNIT,
    WINS,
    Repeats,
)
from streamer.models.transitions.transitions import COUNT_SMALLEST
from streamer.models.twins.changes import clicked


def twin_repeats(learner: Repeats, batch: Batch) -> F64:
    """See repeats.py; here the user's list is made anew at every click."""
    out = np.full(len(batch), np.nan)
    p, stream = learner.parameters, learner.stream.values[0]
    keep, user_keep = 0.5 ** (1 / p.half_life), 0.5 ** (1 / p.user_half_life)
    for k, back in clicked(batch):
        i, weight = int(batch.items[k]), float(batch.clicks[k])
        item, user = learner.item.values[i], learner.user.values[batch.users[k]]
        recent = item[0] * 0.5 ** ((stream[1] - item[1]) / p.half_life)
        columns = user[LIST:].reshape(3, -1).T
        entries = columns[columns[:, 0] >= 0].tolist()  # item, last tick, count
        if back:
            less = min(recent, back)
            recent -= less
            stream[0] = max(0.0, stream[0] - less)
            item[:] = recent, stream[1], max(0.0, item[CLICKS] - 1), min(item[AGAIN], max(0.0, item[CLICKS] - 1))
        if back or weight < 0:
            entries = [entry for entry in entries if entry[0] != i]
        place = next((n for n, entry in enumerate(entries) if entry[0] == i), -1)
        if weight > 0:
            habit = (stream[REPEATED] + 1) / (stream[COUNTED] + 10)
            own, n = user[OWN_REPEATS] / UNIT, user[OWN_CLICKS] / UNIT
            rate = (own + p.user_pseudo_counts * habit) / (n + p.user_pseudo_counts) if entries else 0.0
            classes, factors = _classes(learner, user, entries, habit), _factors(learner)
            x = factors[classes].prod(axis=1)
            share = max(recent, COUNT_SMALLEST) / max(stream[0], COUNT_SMALLEST)
            out[k] = min(rate * x[place] / x.sum() if place >= 0 else (1 - rate) * share, 1.0)
            if place >= 0:
                stream[WINS:] *= keep
                np.add.at(stream[WINS + CLASSES :], classes, (x / x.sum())[:, None] / factors[classes])
                np.add.at(stream[WINS:], classes[place], 1.0)
            if entries:
                user[OWN_REPEATS] = int(user[OWN_REPEATS] * user_keep + UNIT * (place >= 0))
                user[OWN_CLICKS] = int(user[OWN_CLICKS] * user_keep + UNIT)
                stream[REPEATED] = stream[REPEATED] * keep + (place >= 0)
                stream[COUNTED] = stream[COUNTED] * keep + 1
            count = entries.pop(place)[2] if place >= 0 else 0
            entries = [[i, int(user[TICKS]), count + 1], *entries][: p.listed]
            user[TICKS] += 1
            item[:] = recent + weight, stream[1], item[CLICKS] + 1, item[AGAIN] + (place >= 0)
            stream[:2] = (stream[0] + weight) * keep, stream[1] + 1
        columns[:] = -1, 0, 0
        for n, entry in enumerate(entries):
            user[LIST:].reshape(3, -1)[:, n] = entry
    return out


def _classes(learner: Repeats, user: Array, entries: list[list[int]], habit: float) -> I64:
    """The classes (entries, 3) by gap, count and habit."""
    rows, lasts, counts = np.array(entries, dtype=np.int64).reshape(-1, 3).T
    k = learner.parameters.item_pseudo_counts
    of_item = learner.item.values[rows]
    own = (of_item[:, AGAIN] + k * habit) / (of_item[:, CLICKS] + k) / habit
    gap = np.minimum(np.floor(2 * np.log2(user[TICKS] - lasts) + 0.5), GAPS - 1)
    count = np.minimum(np.floor(np.log2(counts) + 0.5), COUNTS - 1)
    habits = np.clip(np.floor(2 * np.log2(own) + 0.5) + HABITS // 2, 0, HABITS - 1)
    return np.stack([gap, GAPS + count, GAPS + COUNTS + habits], axis=1).astype(np.int64)


def _factors(learner: Repeats) -> F64:
    """f, (CLASSES,)"""
    wins, expected = learner.stream.values[0, WINS:].reshape(2, CLASSES)
    first = np.ones(CLASSES)
    first[:GAPS] = 0.5 ** (np.arange(GAPS) / 2)
    m = learner.parameters.pseudo_counts
    return np.asarray((wins + m * first) / (expected + m), dtype=np.float64)
