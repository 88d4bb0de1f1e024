"""Takes back what an event did to Gaussians and to running moments: the inverse of a filter's step.

An event with S = R + sum a_k^2 v_k leaves each independent part k with v_k' = v_k - a_k^2 v_k^2 / S. Seen from one part all
others are noise, r_k = S - a_k^2 v_k, and what is left says what was there:

    v_k = v_k' r_k / (r_k - a_k^2 v_k')

This is exact right after the event, and also after any number of other events of a static filter, as Gaussian evidence has
no order. Where parts have drifted since then (process noise, other rows that moved), it is as exact as that drift is small.
"""

import numpy as np

from streamer.core.arrays import F64, Array
from streamer.core.kernel import kernel

TURNS = 10  # of a fixed point, each of which brings it several times closer
LEAST = 1e-3  # share of r_k that the divisor keeps, whatever has drifted


@kernel
def variances_before(after: F64, a: F64, prior: F64, noise: float, before: F64) -> float:
    """Write the variances of all parts before the event to `before` (k,), none above its prior; return S."""
    total = noise
    for k in range(len(after)):
        before[k] = after[k]
        total += a[k] * a[k] * after[k]
    for _ in range(TURNS):
        for k in range(len(after)):
            squared = a[k] * a[k]
            rest = total - squared * before[k]
            found = after[k] * rest / max(rest - squared * after[k], LEAST * rest)
            found = max(after[k], min(found, prior[k]))
            total = rest + squared * found
            before[k] = found
    return total


@kernel
def take_from_moments(stream: F64, events: int, mean: int, squares: int, value: float) -> None:
    """Take a value out of the running count, mean and sum of squares at these columns of the stream's row."""
    n, mu = stream[0, events] - 1.0, stream[0, mean]
    if n < 1.0:
        stream[0, events] = stream[0, mean] = 0.0
        if squares >= 0:
            stream[0, squares] = 0.0
        return
    stream[0, events] = n
    stream[0, mean] = mu - (value - mu) / n
    if squares >= 0:
        stream[0, squares] = max(0.0, stream[0, squares] - (value - mu) * (value - stream[0, mean]))


@kernel
def take_from_counts(stream: F64, user: Array, item: Array, events: int, value: float) -> None:
    """Take a rating out of the stream's count, mean and squares, its first columns, and out of both rows' column `events`."""
    take_from_moments(stream, 0, 1, 2, value)
    user[events] = max(0.0, np.float64(user[events]) - 1.0)
    item[events] = max(0.0, np.float64(item[events]) - 1.0)
