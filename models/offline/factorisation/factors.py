"""Refits biased-mf, or a learner like it, by a model of the field that factorises: fitted offline, exported, aligned, put in.

    y = mean + b_u + b_i + p_u . q_i    ->    z = (y - mu) / sigma  with mu, sigma and counts of the whole history

What all vectors of a side have in common goes into the biases of the other, where the learner keeps such things: rows of a model
that says it in the product would be more than twice as long as the learner's, which the gate takes for unsound. The vectors, of
whatever length, then become those of the learner's that lose least of all products p_u . q_i (a truncated SVD of their product,
from the QR of both sides), or are filled up with zeros. They are turned (Procrustes, on the items' rows by count) to where a
pass of the learner's own descent over the same history puts its rows, so that rows mean what they meant before, and one side is
shortened and the other lengthened, which no prediction shows, until the middle lengths of both are as many times as long as
descent left them. Rows that the model was not fitted on stay as descent left them. A tenth of the ratings, drawn by seed, stops
the fit.
Cost: that of the model, of one pass of descent, and O(rows dim^2).

Schonemann (1966), A generalized solution of the orthogonal Procrustes problem, Psychometrika 31(1).
"""

from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64, Array
from streamer.core.batch import RATING, Batch
from streamer.core.dataset import Dataset, SideInformation, dataset_from_batch, empty_side_information
from streamer.core.errors import BadSettings, StreamerError
from streamer.core.protocols import Epoch, Factorised, Factors, OnlineLearner
from streamer.core.tables import rotation
from streamer.models.biased_mf import BiasedMF, deviation
from streamer.models.offline import model
from streamer.models.replay import DAY_MS, learn_whole

FIRST_PASS, FITTED = 0.1, 0.95  # shares of the progress at which descent and the fit have ended
FEWEST = 20  # ratings below which there is nothing to fit


class FactorsParameters(msgspec.Struct, frozen=True):
    """Which model, and which events count."""

    model: str | None = None
    """A name of streamer.models.offline.MODELS; none: that of the learner."""
    window_days: float | None = None
    """Age up to which ratings are fitted; none: all are."""
    validation_share: float = 0.1
    """Of the ratings, drawn by seed: what the fit is stopped by. As `streamer train`."""
    seed: int = 1
    """Of first values, the order of ratings and what is put aside."""


class FittedFactors:
    """protocols.Trainer and Informed, for learners that are a BiasedMF."""

    Parameters = FactorsParameters

    def __init__(self, name: str, parameters: FactorsParameters) -> None:
        self.name, self.parameters = name, parameters
        self._side: SideInformation | None = None
        self._tables: Mapping[str, Array] = {}

    def inform(self, side: SideInformation) -> None:
        """See protocols.Informed."""
        self._side = side

    def fit(self, learner: OnlineLearner, history: Batch, on_progress: Callable[[float], None]) -> None:
        """See protocols.Trainer; raises StreamerError for another learner, BadSettings for a model that does not factorise."""
        if not isinstance(learner, BiasedMF):
            raise StreamerError(f"the trainer {self.name} fits learners like biased-mf, not {learner.name}")
        name = self.parameters.model or learner.name
        made = model(name, seed=self.parameters.seed, dim=learner.parameters.dim)
        if not isinstance(made, Factorised) or made.kind != "ratings":
            raise BadSettings(
                f"the model {name} does not factorise ratings: its rows cannot be those of {learner.name}"
            )
        learn_whole(learner, history, lambda share: on_progress(FIRST_PASS * share))
        data = self._chosen(history, learner)
        if len(data) >= FEWEST:
            held = np.zeros(len(data), dtype=np.bool_)
            drawn = np.random.default_rng(self.parameters.seed).permutation(len(data))
            held[drawn[: max(1, round(self.parameters.validation_share * len(data)))]] = True
            train = data.select(~held)

            def heard(epoch: Epoch) -> None:
                on_progress(FIRST_PASS + (FITTED - FIRST_PASS) * epoch.number / epoch.of)

            made.fit(train, data.select(held), heard)
            put(learner, made.export(), train)
        on_progress(1.0)
        self._tables = {called: table.values for called, table in learner.tables().items()}

    def export(self) -> Mapping[str, Array]:
        """See protocols.Trainer."""
        return self._tables

    def _chosen(self, history: Batch, learner: BiasedMF) -> Dataset:
        side = self._side or empty_side_information(len(learner.user.values), len(learner.item.values))
        chosen = (history.kinds == RATING) & np.isfinite(history.values)
        if self.parameters.window_days is not None and len(history):
            days = (history.times_ms.max() - history.times_ms) / DAY_MS
            chosen &= days <= self.parameters.window_days
        return dataset_from_batch(history, side).select(chosen)


def put(learner: BiasedMF, factors: Factors, train: Dataset) -> None:
    """Into the rows of `train`'s users and items, which hold what descent left, go the factors."""
    dim, stream = learner.parameters.dim, learner.stream.values
    mu, sigma = float(stream[0, 1]), float(deviation(stream))
    users, items = np.unique(train.users), np.unique(train.items)
    p, q, of_users, of_items = centred(factors.users[users], factors.items[items])
    p, q = shortened(p, q, dim)
    tables = learner.user.values, learner.item.values
    before = [table[rows, :dim].astype(np.float64) for table, rows in zip(tables, (users, items), strict=True)]
    turned = rotation(before[1], q, np.bincount(train.items, minlength=len(factors.items))[items])
    p, q = p @ turned / np.sqrt(sigma), q @ turned / np.sqrt(sigma)
    grown = _length(p) * _length(before[1]), _length(q) * _length(before[0])
    if min(grown) > 0.0:
        scale = np.sqrt(grown[0] / grown[1])
        p, q = p / scale, q * scale
    tables[0][users, :dim], tables[1][items, :dim] = p, q
    tables[0][users, dim] = (factors.user_biases[users] + of_users) / sigma
    tables[1][items, dim] = (factors.item_biases[items] + of_items + factors.mean - mu) / sigma


def centred(users: F32, items: F32) -> tuple[F64, F64, F64, F64]:
    """Vectors of mean 0, and what that moves into the biases of users and items: the same products, (n, dim) and (m, dim)."""
    p, q = users.astype(np.float64), items.astype(np.float64)
    of_p, of_q = p.mean(axis=0), q.mean(axis=0)
    return p - of_p, q - of_q, (p - of_p) @ of_q, q @ of_p


def shortened(users: Array, items: Array, dim: int) -> tuple[F64, F64]:
    """(users, dim) and (items, dim) whose products are nearest to those of `users` (n, k) and `items` (m, k), in least squares."""
    if users.shape[1] <= dim:
        wide = [np.zeros((len(side), dim)) for side in (users, items)]
        for side, rows in zip(wide, (users, items), strict=True):
            side[:, : rows.shape[1]] = rows
        return wide[0], wide[1]
    (a, b), (c, d) = (np.linalg.qr(side.astype(np.float64)) for side in (users, items))
    left, sizes, right = np.linalg.svd(b @ d.T)
    kept = min(dim, len(sizes))
    roots = np.sqrt(sizes[:kept])
    return shortened(a @ left[:, :kept] * roots, c @ right[:kept].T * roots, dim)


def _length(rows: Array) -> float:
    """The middle length of rows, which is what the gate looks at; 0 for no rows."""
    return float(np.median(np.linalg.norm(rows, axis=1))) if len(rows) else 0.0
