"""Refits biased-mf, or a learner like it, with an offline model that factorises: fitted, exported, aligned with the learner's rows.

    y = mean + b_u + b_i + p_u . q_i    ->    z = (y - mu) / sigma  with mu, sigma and counts of the whole history

The mean of each side's vectors goes into the biases of the other side, as in the learner. If a model kept it in the product, its
rows would be more than twice as long as the learner's, which the gate refuses. The vectors are then reduced to the
learner's dimension with the least loss in the products p_u . q_i (a truncated SVD of their product, from the QR of both
sides), or padded with zeros. They are rotated (Procrustes, on the items' rows weighted by count) onto the rows that a
pass of the learner's own descent over the same history gives, so that the space stays the same. Finally one side is scaled
down and the other up, which changes no prediction, until the median lengths of both have grown by the same factor since
descent. Rows that the model was not fitted on stay as descent left them. A tenth of the ratings, drawn by seed, is held
out to stop the fit.
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

FIRST_PASS, FITTED_SHARE = 0.1, 0.95  # progress at the end of descent, and of the fit
RATINGS_REQUIRED = 20  # with fewer ratings nothing is fitted


class FactorsParameters(msgspec.Struct, frozen=True):
    """The model, and the events that count."""

    model: str | None = None
    """A name in streamer.models.offline.MODELS; None: the learner's name."""
    window_days: float | None = None
    """Largest age of ratings that are fitted; None: all of them."""
    validation_share: float = 0.1
    """Share of the ratings, drawn by seed, that is held out to stop the fit. As in `streamer train`."""
    seed: int = 1
    """Determines initial values, the order of ratings and which are held out."""


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
        if len(data) >= RATINGS_REQUIRED:
            held = np.zeros(len(data), dtype=np.bool_)
            drawn = np.random.default_rng(self.parameters.seed).permutation(len(data))
            held[drawn[: max(1, round(self.parameters.validation_share * len(data)))]] = True
            train = data.select(~held)

            def report(epoch: Epoch) -> None:
                on_progress(FIRST_PASS + (FITTED_SHARE - FIRST_PASS) * epoch.number / epoch.of)

            made.fit(train, data.select(held), report)
            write_factors(learner, made.export(), train)
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


def write_factors(learner: BiasedMF, factors: Factors, train: Dataset) -> None:
    """Write the factors into the rows of `train`'s users and items, which hold the result of descent."""
    dim, stream = learner.parameters.dim, learner.stream.values
    mu, sigma = float(stream[0, 1]), float(deviation(stream))
    users, items = np.unique(train.users), np.unique(train.items)
    p, q, of_users, of_items = centre(factors.users[users], factors.items[items])
    p, q = reduce_dimensions(p, q, dim)
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


def centre(users: F32, items: F32) -> tuple[F64, F64, F64, F64]:
    """Vectors of mean 0, (n, dim) and (m, dim), and what to add to the biases, (n,) and (m,), so that all predictions stay the same."""
    p, q = users.astype(np.float64), items.astype(np.float64)
    of_p, of_q = p.mean(axis=0), q.mean(axis=0)
    return p - of_p, q - of_q, (p - of_p) @ of_q, q @ of_p


def reduce_dimensions(users: Array, items: Array, dim: int) -> tuple[F64, F64]:
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
    return reduce_dimensions(a @ left[:, :kept] * roots, c @ right[:kept].T * roots, dim)


def _length(rows: Array) -> float:
    """The median length of rows, which the gate checks; 0 without rows."""
    return float(np.median(np.linalg.norm(rows, axis=1))) if len(rows) else 0.0
