"""What a model is fitted on, stopped by and judged on: three parts of a history that share no event.

Nothing is ever chosen on the test part.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from streamer.core.arrays import Array, Bool
from streamer.core.dataset import Dataset
from streamer.core.errors import BadSettings


class Split(NamedTuple):
    """Three parts of one history, each in its order."""

    train: Dataset
    validation: Dataset  # epochs and whatever else is chosen are chosen on it
    test: Dataset


def split(name: str, data: Dataset, test_share: float, validation_share: float, seed: int) -> Split:
    """Cut `data` by a rule of `SPLITS`; `validation_share` is of what the test part leaves.

    Raises BadSettings for an unknown rule or share, and where a part would be empty.
    """
    for share in (test_share, validation_share):
        if not 0 < share < 1:
            raise BadSettings(f"wanted shares between 0 and 1 to put aside, found {share}: give another")
    if name not in SPLITS:
        raise BadSettings(f"no split {name!r}; choose one of: {', '.join(sorted(SPLITS))}")
    rest, test = _cut(name, data, test_share, np.random.default_rng([seed, 0]))
    train, validation = _cut(name, rest, validation_share, np.random.default_rng([seed, 1]))
    return Split(train, validation, test)


def _cut(name: str, data: Dataset, share: float, drawn: np.random.Generator) -> tuple[Dataset, Dataset]:
    held: Bool = SPLITS[name](data, share, drawn)
    if not 0 < np.count_nonzero(held) < len(data):
        raise BadSettings(
            f"the split {name} cannot put {share:g} of {len(data):,} events by {len(np.unique(data.users)):,} users "
            "aside: give another share, or more events"
        )
    return data.select(~held), data.select(held)


def _random(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """Any event, whenever it was: how well holes in a table are filled."""
    held: Bool = np.zeros(len(data), dtype=np.bool_)
    held[drawn.permutation(len(data))[: round(share * len(data))]] = True
    return held


def _temporal(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """The latest events: what a service would have met."""
    order = np.argsort(data.times_ms, kind="stable")
    held: Bool = np.zeros(len(data), dtype=np.bool_)
    held[order[len(data) - round(share * len(data)) :]] = True
    return held


def _unseen_users(data: Dataset, share: float, drawn: np.random.Generator) -> Bool:
    """All events of some users: what is said to somebody of whom nothing is known but the profile."""
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
    """Each user's last click is the test, the one before it the validation; users with fewer than three only train.

    Of `data`, the events that count as clicks are looked at. A last click on what its user had clicked before tests nothing, as
    in `streamer.study.ranking`: nobody is recommended what they know.
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
