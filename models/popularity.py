"""Popularity: how often an item was clicked, over all time or recently.

    all time     n_i <- n_i + w
    recent       n_i <- n_i 2^(-(t - t_i) / h) + w,  t_i <- t      (t: clicks so far, h: half-life in clicks)
    prediction   n_i / sum_j n_j, the item's share of the clicks before this one

Only clicks with a weight w above 0 count; the user makes no difference. A like that is taken back is subtracted; from
recent popularity in full where it has faded, but never below 0. A row decays when it is touched or read.
Cost: O(1) a click. State: one or two float64 an item, the sum, clicks refused.

Popularity is the baseline for every other learner of clicks, and the fallback for users without clicks.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, I32, U8
from streamer.core.batch import Batch, Opinion, UserView
from streamer.core.kernel import kernel
from streamer.core.protocols import Kind
from streamer.core.tables import Table


class AllTimeParameters(msgspec.Struct, frozen=True):
    """No parameters."""


class RecentParameters(msgspec.Struct, frozen=True):
    """The decay of recent popularity."""

    half_life: float = 5000.0
    """Number of clicks, by any user on any item, after which a click counts half. From the design's measurements."""


@kernel
def refuses(item: F64, stream: F64, i: int, weight: float) -> bool:
    """Whether to refuse a click because its weight, its item's row or the sum is not finite."""
    if weight == 0.0:
        return False
    return not np.isfinite(weight) or (weight > 0.0 and not np.isfinite(item[i, 0] + item[i, -1] + stream[0, 0]))


@kernel
def learn_all_time(
    item: F64, item_touched: U8, stream: F64, stream_touched: U8, items: I32, clicks: F32, withdrawn: F32,
    probes: I32, out: F32, scores: F32,
) -> None:  # fmt: skip
    """Item rows are n; stream is [sum, refused]; `withdrawn` from batch.TakenBack, `probes` as in protocols.Probed."""
    for k in range(len(items)):
        out[k] = np.nan
        i = items[k]
        for m in range(probes.shape[1] if probes.shape[1] and probes[k, 0] >= 0 else 0):
            scores[k, m] = item[probes[k, m], 0] if probes[k, m] >= 0 else np.nan
        if k < len(withdrawn) and withdrawn[k] > 0:
            less = min(item[i, 0], np.float64(withdrawn[k]))
            item[i, 0] -= less
            stream[0, 0] -= less
            item_touched[i] = stream_touched[0] = 1
        if refuses(item, stream, i, clicks[k]):
            stream[0, 1] += 1
            stream_touched[0] = 1
        elif clicks[k] > 0:
            out[k] = item[i, 0] / stream[0, 0] if stream[0, 0] > 0 else 0.0
            item[i, 0] += clicks[k]
            stream[0, 0] += clicks[k]
            item_touched[i] = 1
            stream_touched[0] = 1


@kernel
def take_recent(item: F64, i: int, stream: F64, total: int, t: float, half_life: float, clicks: float) -> None:
    """Take clicks back from an item's row [n, t_i] and from the sum in column `total`, as far as they have not faded."""
    n = item[i, 0] * 2.0 ** ((item[i, 1] - t) / half_life)
    less = min(n, clicks) if np.isfinite(n) else 0.0
    item[i, 0], item[i, 1] = n - less, t
    stream[0, total] = max(0.0, stream[0, total] - less)


@kernel
def learn_recent(
    item: F64, item_touched: U8, stream: F64, stream_touched: U8, items: I32, clicks: F32, withdrawn: F32,
    half_life: float, probes: I32, out: F32, scores: F32,
) -> None:  # fmt: skip
    """Item rows are [n, t_i]; stream is [sum, refused, t], with the sum decayed to t; the rest as for `learn_all_time`."""
    for k in range(len(items)):
        out[k] = np.nan
        i, t = items[k], stream[0, 2]
        for m in range(probes.shape[1] if probes.shape[1] and probes[k, 0] >= 0 else 0):
            j = probes[k, m]
            scores[k, m] = item[j, 0] * 2.0 ** ((item[j, 1] - t) / half_life) if j >= 0 else np.nan
        if k < len(withdrawn) and withdrawn[k] > 0:
            take_recent(item, i, stream, 0, t, half_life, np.float64(withdrawn[k]))
            item_touched[i] = stream_touched[0] = 1
        if refuses(item, stream, i, clicks[k]):
            stream[0, 1] += 1
            stream_touched[0] = 1
        elif clicks[k] > 0:
            n = item[i, 0] * 2.0 ** ((item[i, 1] - t) / half_life)
            out[k] = n / stream[0, 0] if stream[0, 0] > 0 else 0.0
            item[i, 0] = n + clicks[k]
            item[i, 1] = t
            stream[0, 0] = (stream[0, 0] + clicks[k]) * 2.0 ** (-1.0 / half_life)
            stream[0, 2] = t + 1
            item_touched[i] = 1
            stream_touched[0] = 1


@kernel
def count_recent(item: F64, stream: F64, items: I32, half_life: float, out: F64) -> None:
    """Decayed counts of `items` (n,) into `out` (n,), 0 for rows never seen."""
    for k in range(len(items)):
        i = items[k]
        known = 0 <= i < len(item)
        out[k] = item[i, 0] * 2.0 ** ((item[i, 1] - stream[0, 2]) / half_life) if known else 0.0


def share(counts: F64, total: float, clicks: F32) -> F32:
    """The counts (n,) as shares of `total`; NaN for events that are not clicks. Pure."""
    counted = (clicks > 0) & np.isfinite(clicks)
    shares = counts / total if total > 0 else np.zeros(len(counts))
    return np.where(counted, shares, np.nan).astype(np.float32)


class Popularity:
    """Counts clicks over all time."""

    kind: Kind = "clicks"
    Parameters = AllTimeParameters

    def __init__(self, name: str, parameters: AllTimeParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        self.item = Table("item", [0.0], dtype=np.float64)  # n
        self.stream = Table("stream", [0.0, 0.0], dtype=np.float64)  # sum, refused

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"item": self.item, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; the item's share of the clicks before this one."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        item, stream = self.item, self.stream
        learn_all_time(
            item.values, item.touched, stream.values, stream.touched, batch.items, batch.clicks, batch.taken_back.withdrawn,
            probes, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; 0 for an item never seen."""
        return share(self._counts(batch.items), float(self.stream.values[0, 0]), batch.clicks)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 1])

    def score(self, user: UserView, items: I32) -> F32:
        """Clicks of each item, (len(items),), the same for every user."""
        return self._counts(items).astype(np.float32)

    def _counts(self, items: I32) -> F64:
        values = self.item.values[:, 0]
        counts = np.zeros(len(items))
        known = (items >= 0) & (items < len(values))
        counts[known] = values[items[known]]
        return counts


class RecentPopularity:
    """Counts clicks with a half-life."""

    kind: Kind = "clicks"
    Parameters = RecentParameters

    def __init__(self, name: str, parameters: RecentParameters, *, seed: int) -> None:
        """The seed is unused: nothing here is random."""
        self.name, self.parameters = name, parameters
        self.item = Table("item", [0.0, 0.0], dtype=np.float64)  # n, t_i
        self.stream = Table("stream", [0.0, 0.0, 0.0], dtype=np.float64)  # sum, refused, t

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {"item": self.item, "stream": self.stream}

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; the item's share of the clicks before this one."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        item, stream, half_life = self.item, self.stream, self.parameters.half_life
        learn_recent(
            item.values, item.touched, stream.values, stream.touched, batch.items, batch.clicks, batch.taken_back.withdrawn,
            half_life, probes, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; 0 for an item never seen."""
        return share(self._counts(batch.items), float(self.stream.values[0, 0]), batch.clicks)

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, 1])

    def score(self, user: UserView, items: I32) -> F32:
        """Decayed clicks of each item, (len(items),), the same for every user."""
        return self._counts(items).astype(np.float32)

    def _counts(self, items: I32) -> F64:
        counts = np.empty(len(items))
        count_recent(self.item.values, self.stream.values, items, self.parameters.half_life, counts)
        return counts
