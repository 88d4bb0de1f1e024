"""Splits of a history into a training, a validation and a test part, which share no event.

Nothing is ever chosen on the test part.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import Array, Bool
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings


class Split(NamedTuple):
    """The three parts of a history, each in the history's order."""

    train: Dataset
    validation: Dataset  # for choices, such as the epoch
    test: Dataset


def split(name: str, data: Dataset, test_share: float, validation_share: float, seed: int) -> Split:
    """Split `data` by a rule of `SPLITS`; `validation_share` is a share of the events outside the test part.

    Raises BadSettings for an unknown rule or share, and where a part would be empty.
    """
    for share in (test_share, validation_share):
        if not 0 < share < 1:
            raise BadSettings(f"wanted shares of test and validation part between 0 and 1, found {share}: give another")
    if name not in SPLITS:
        raise BadSettings(f"no split {name!r}; choose one of: {', '.join(sorted(SPLITS))}")
    rest, test = _cut(name, data, test_share, np.random.default_rng([seed, 0]))
    train, validation = _cut(name, rest, validation_share, np.random.default_rng([seed, 1]))
    return Split(train, validation, test)


def _cut(name: str, data: Dataset, share: float, drawn: np.random.Generator) -> tuple[Dataset, Dataset]:
    held: Bool = SPLITS[name](data, share, drawn)
    if not 0 < np.count_nonzero(held) < len(data):
        raise BadSettings(
            f"the split {name} cannot hold out {share:g} of {len(data):,} events by {len(np.unique(data.users)):,} users: "
            "give another share, or more events"
        )
    return data.select(~held), data.select(held)


def _random(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """A random choice of events, whatever their time: measures how well missing ratings are predicted."""
    held: Bool = np.zeros(len(data), dtype=np.bool_)
    held[drawn.permutation(len(data))[: round(share * len(data))]] = True
    return held


def _temporal(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """The latest events, as a service would meet them."""
    order = np.argsort(data.times_ms, kind="stable")
    held: Bool = np.zeros(len(data), dtype=np.bool_)
    held[order[len(data) - round(share * len(data)) :]] = True
    return held


def _unseen_users(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """All events of some users: measures predictions for users of whom only the profile is known."""
    users = np.unique(data.users)
    chosen = drawn.permutation(users)[: round(share * len(users))]
    held: Bool = np.isin(data.users, chosen)
    return held


SPLITS: Mapping[str, Callable[[Dataset, float, np.random.Generator], Array]] = {
    "random": _random,
    "temporal": _temporal,
    "unseen-users": _unseen_users,
}


def leave_last_out(data: Dataset) -> Split:
    """Each user's last click is the test, the one before it the validation; users with fewer than three clicks only train.

    Only the events of `data` that count as clicks are used. A last click on an item that its user had clicked before is left out,
    as in `streamer.study.ranking`: items that a user knows are not recommended.
    """
    clicks = data.clicked()
    order, starts = clicks.by_user()
    counts = np.diff(starts)
    place = np.empty(len(clicks), dtype=np.int64)
    place[order] = np.arange(len(clicks)) - np.repeat(starts[:-1], counts)
    left, enough = counts[clicks.users] - place, counts[clicks.users] >= 3
    _, firsts = np.unique(clicks.users.astype(np.int64) << 32 | clicks.items, return_index=True)
    new: Bool = np.zeros(len(clicks), dtype=np.bool_)
    new[firsts] = True
    return Split(
        clicks.select(~enough | (left > 2)),
        clicks.select(enough & (left == 2)),
        clicks.select(enough & (left == 1) & new),
    )
