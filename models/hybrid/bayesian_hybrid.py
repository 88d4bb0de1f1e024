"""The Bayesian hybrid: matrix factorisation filtered instead of descended, with categories.

    y = mu + sigma (b_i + beta.g + x.w + noise),   x = [1, 1, b_i + beta.g, ln(1 + n_i) / 4 - .7, q_i + Gamma g, g]

Each user is a Gaussian over a small w, with mean and full covariance P: a bias, a bias of the session, a weight on consensus
(what all think of the item), one on its popularity, p on the latent factors, and one for each category. g is the item's category
indicator over the root of its number of categories, b_i and q_i have a variance v each, n_i is the item's number of ratings.
Each event begins with a time update of P: process noise, and the session fades by exp(-1 / tau) an event; after a gap of t hours it
keeps exp(-t / 24) / 2, as a mood outlasts a break. Then, with

    e = (y - prediction) / sigma,   c = 1 + w_consensus,   S = R + x'Px + c^2 v_b + sum p_j^2 v_j

    w <- w + P x e / S,   P <- P - P x x'P / S,   b_i <- b_i + v_b c e / S,   q_j <- q_j + v_j p_j e / S,   their v likewise
    beta <- beta + rate e c g,   Gamma <- Gamma + rate e g p' - decay Gamma

What is predicted is z = (prediction - mu) / sigma, calibrated: what the filter gets wrong again and again in the same way is learned
by a small filter of its own (calibration.py), and how far a rating may be off by spread.py.

A rating that replaces an earlier one, or withdraws it, first takes back what that one did (take_back.py).

Preferences that a user states are further evidence of the same kind (profile.py). A new user starts from the means of their
groups, and an item without ratings from the shrunk mean b and q of items with exactly the same categories. R is each user's
own: the common one times the damped mean of e^2 / S. A new user's weights on consensus and popularity start from values that
are learned over all users, like beta. mu and sigma are the running mean and deviation of all ratings, so that any scale of
ratings gives the same results. Cost: O(n (nonzero + n / 2)) an event, n = 4 + dim + categories, about
1.5 us. State: 4 (n + n (n + 1) / 2 + 4) bytes a user, 5.7 KB; 4 (2 dim + 3) an item; one row of shared parameters.

Kalman (1960), A new approach to linear filtering and prediction problems, J. Basic Engineering 82(1). Stern, Herbrich,
Graepel (2009), Matchbox: large scale online Bayesian recommendations, WWW. Deviations: items' covariances are diagonal
and those between users and items are dropped; beta and Gamma, which all share, are learned by gradient descent. Left out:
replayed events, which gain .001 (the design's figure) only if rows of users who were evicted long ago are used, and cost .001 if
copies of those users' weights are used; full covariances of items, which gain nothing.
"""

from collections.abc import Mapping

import numpy as np

from streamer.core.arrays import F32, F64, I32, Array
from streamer.core.batch import CATEGORIES, GROUPS, RATING, Batch, Opinion, UserView
from streamer.core.protocols import Belief, ItemSets, Kind, Stated
from streamer.core.seed import fill_normal, id_key
from streamer.core.tables import Side, Table
from streamer.models.hybrid.answers import condition_hybrid, half_widths_hybrid, score_hybrid, uncertainty_hybrid
from streamer.models.hybrid.calibration import initial_calibration
from streamer.models.hybrid.kernel import begin_user, learn_hybrid, predict_hybrid
from streamer.models.hybrid.parameters import TUNED, BayesianHybridParameters
from streamer.models.hybrid.profile import start_in_groups
from streamer.models.hybrid.questions import ask_hybrid
from streamer.models.hybrid.rows import (
    BETA,
    BIAS,
    CONSENSUS,
    FIXED,
    MU,
    POPULARITY,
    REFUSED,
    SESSION,
    SQUARES,
    START_CONSENSUS,
    START_POPULARITY,
    Model,
    deviation,
    session_left,
)
from streamer.models.hybrid.spread import COVERED, GAIN, RATINGS


class _NoCategories:
    """Stands in until `attach`: no item has categories."""

    sets, representatives = Table("item", [-1], dtype=np.int32), np.empty(0, dtype=np.int32)


_NO_CATEGORY_SETS: ItemSets = _NoCategories()
_NO_ITEMS, _NO_VALUES = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)


class BayesianHybrid:
    """The default learner of ratings, on any scale."""

    kind: Kind = "ratings"
    Parameters = BayesianHybridParameters

    def __init__(self, name: str, parameters: BayesianHybridParameters, *, seed: int) -> None:
        """The seed acts through the keys of item rows only."""
        self.name, self.parameters = name, parameters
        p, dim, categories = parameters, parameters.latent_dim, parameters.categories
        priors = [p.bias_prior, p.session_prior, p.consensus_prior, p.popularity_prior]
        priors += [p.latent_prior] * dim + [p.category_prior] * categories
        self.size = n = FIXED + dim + categories
        covariance = np.diag(priors)[np.tril_indices(n)]
        self.user = Table("user", [0.0] * n + covariance.tolist() + [0.0] * 4)
        item = [0.0] * dim + [p.vector_prior] * dim + [0.0, p.item_prior, 0.0]
        self.item = Table("item", item, random=dim, scale=p.vector_noise)
        known = CATEGORIES if categories else 0
        learned = [0.0] * (BETA + known) + _initial_gamma(p, known).tolist() + [0.0] * known
        self.stream = Table("stream", learned, dtype=np.float64)
        self.calibration = Table("stream", initial_calibration(p.calibration_prior), dtype=np.float64)
        self.tuned = Table("stream", [1.0] * len(TUNED), dtype=np.float64)
        self.group_means = Table("stream", [0.0] * (GROUPS * (2 + dim + categories)))
        self.set_sums = Table("item", [0.0] * (2 + dim))
        self.category_words, self.category_sets = (
            Table("item", [0, 0], dtype=np.uint64),
            _NO_CATEGORY_SETS,
        )  # until `attach`
        self.model = Model(
            dim=dim, categories=categories, known=known, bias_share=1.0, consensus_share=1.0, popularity_share=1.0,
            category_share=1.0, item_share=1.0, vector_share=1.0, noise=p.noise, habit_events=p.habit_events, session=p.session_prior,
            fade=float(np.exp(-1.0 / p.session_events)), gap_ms=1000.0 * p.session_gap_s,
            carry=p.session_carry, carry_ms=3_600_000.0 * p.session_carry_hours,
            bias_process=p.bias_process, latent_process=p.latent_process, item_process=p.item_process,
            consensus_process=p.consensus_process, consensus_rate=p.consensus_rate,
            popularity_rate=p.popularity_rate, category_rate=p.category_rate, category_events=p.category_events,
            vector_rate=p.vector_rate, vector_decay=p.vector_decay, preference_noise=p.preference_noise,
            group_users=p.group_users, alike_items=p.alike_items, clip=p.clip,
            calibration_prior=p.calibration_prior, calibration_forgetting=p.calibration_forgetting, spread_rate=p.spread_rate,
        )  # fmt: skip

    def attach(self, categories: Table, category_sets: ItemSets) -> None:
        """See Categorised."""
        self.category_words, self.category_sets = categories, category_sets

    def tables(self) -> Mapping[str, Table]:
        """See Stateful."""
        return {
            "user": self.user,
            "item": self.item,
            "alike": self.set_sums,
            "stream": self.stream,
            "calibration": self.calibration,
            "groups": self.group_means,
            "tuned": self.tuned,
        }

    def restored(self) -> None:
        """See Rebuilt: the model's constants are the parameters times the multiples in `tuned`."""
        p, tuned = self.parameters, dict(zip(TUNED, self.tuned.values[0].tolist(), strict=True))
        self.model = self.model._replace(
            noise=p.noise * tuned["noise"],
            session=p.session_prior * tuned["session_prior"],
            bias_process=p.bias_process * tuned["bias_process"],
            latent_process=p.latent_process * tuned["latent_process"],
            consensus_process=p.consensus_process * tuned["consensus_process"],
            item_process=p.item_process * tuned["item_process"],
            bias_share=tuned["bias_prior"],
            consensus_share=tuned["consensus_prior"],
            popularity_share=tuned["popularity_prior"],
            category_share=tuned["category_prior"],
            item_share=tuned["item_prior"],
            vector_share=tuned["vector_prior"],
            category_rate=p.category_rate * tuned["shared_rate"],
            vector_rate=p.vector_rate * tuned["shared_rate"],
            vector_decay=p.vector_decay * tuned["shared_rate"],
        )

    def learn(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        return self.learn_probed(batch, np.empty((len(batch), 0), dtype=np.int32)).predicted

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        """See Probed."""
        opinion = Opinion(np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32))
        user, item, stream, group_means, profiles = self.user, self.item, self.stream, self.group_means, batch.profiles
        learn_hybrid(
            user.values, user.touched, item.values, item.touched, stream.values, stream.touched,
            self.calibration.values, self.calibration.touched, group_means.values,
            group_means.touched, self.set_sums.values, self.set_sums.touched, self.category_words.values, self.category_sets.sets.values,
            self.category_sets.representatives, batch.kinds, batch.users, batch.items, batch.values, batch.times_ms, profiles.slots,
            profiles.preferences, profiles.groups, probes, batch.taken_back.earlier, batch.taken_back.ages, self.user.start,
            self.item.start, self.model, *opinion,
        )  # fmt: skip
        return opinion

    def predict(self, batch: Batch) -> F32:
        """See OnlineLearner; predictions are not clipped."""
        out = np.empty(len(batch), dtype=np.float32)
        profiles = batch.profiles
        predict_hybrid(
            self.user.values, self.item.values, self.stream.values, self.calibration.values, self.group_means.values, self.set_sums.values,
            self.category_words.values, self.category_sets.sets.values, self.category_sets.representatives, batch.users, batch.items, batch.times_ms, profiles.slots, profiles.preferences, profiles.groups, self.user.start, self.item.start,
            self.model, out,
        )  # fmt: skip
        out[batch.kinds != RATING] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        """The predicted ratings, (len(items),), not clipped; with the last session's bias while that session lasts.

        Cost: O(dim) an item.
        """
        row = self.belief(user)
        if user.now_ms is not None:
            row[SESSION] *= session_left(row, float(user.now_ms), self.model) / self.model.fade
        return self.score_row(row, items)

    def belief(self, user: UserView) -> Array:
        """See Conditioned: a new user starts from the means of their groups; stated preferences are added."""
        row = self._with_start_weights(user.rows[self.name])
        if row[-1] == 0 and user.groups:
            start_in_groups(row, np.array(user.groups, dtype=np.int32), self.group_means.values, self.model)
        return self.condition(row, user.preferences, _NO_ITEMS, _NO_VALUES) if user.preferences else row

    def score_row(self, row: Array, items: I32) -> F32:
        """`score` within the last session, for any user's row, such as one that `condition` returned."""
        out = np.empty(len(items), dtype=np.float32)
        score_hybrid(
            self._with_start_weights(row), *self._kernel_tables(), self.calibration.values, items, self.item.start, self.model, out,
        )  # fmt: skip
        return out

    def uncertainty(self, row: Array, items: I32) -> F32:
        """Standard deviations of the predictions of `score_row`, (len(items),), in ratings, without the ratings' own noise.

        Cost: O(n) an item.
        """
        out = np.empty(len(items), dtype=np.float32)
        uncertainty_hybrid(
            self._with_start_weights(row), *self._kernel_tables(), items, self.item.start, self.model, out
        )
        return out

    def half_widths(self, user: UserView, items: I32) -> F32:
        """See Stating. Cost: O(n) an item."""
        row, out = self.belief(user), np.empty(len(items), dtype=np.float32)
        fade = self.model.fade if row[-1] > 0 else 0.0
        if user.now_ms is not None:
            fade = session_left(row, float(user.now_ms), self.model)
        half_widths_hybrid(
            row, *self._kernel_tables(), self.calibration.values, float(fade), items, self.item.start, self.model, out,
        )  # fmt: skip
        return out

    @property
    def stated(self) -> Stated:
        """See Stating."""
        row = self.calibration.values[0]
        ratings = max(1.0, row[RATINGS])
        return Stated(int(row[RATINGS]), float(row[COVERED] / ratings), float(row[GAIN] / ratings))

    def rescale(self, factor: float, shift: float) -> None:
        """See Rescaled: rows are in deviations, so only mu and sigma change."""
        row = self.stream.values[0]
        row[MU], row[SQUARES] = factor * row[MU] + shift, factor * factor * row[SQUARES]
        self.stream.touched[0] = 1

    @property
    def refused(self) -> int:
        """See Guarded."""
        return int(self.stream.values[0, REFUSED])

    def norms(self, side: Side, rows: I32) -> F64:
        """See Watched: of a user's w, of an item's q and b; in deviations of the ratings, except those without a unit."""
        columns = np.arange(self.size) if side == "user" else np.append(np.arange(self.model.dim), 2 * self.model.dim)
        return np.asarray(np.linalg.norm(self._cells(side, rows, columns), axis=1))

    def widths(self, side: Side, rows: I32) -> Mapping[str, F64]:
        """See Watched: of users the bias, and the mean over categories that had any event.

        Of items the bias, and the mean over q.
        """
        dim, counts_at = self.model.dim, BETA + self.model.known * (1 + self.model.dim)
        known = self.stream.values[0, counts_at : counts_at + min(self.model.categories, self.model.known)] > 0
        if side == "user":
            weights = np.append(BIAS, FIXED + dim + np.flatnonzero(known))
            found = np.sqrt(self._cells(side, rows, self.size + weights * (weights + 3) // 2))
            return {"bias": found[:, 0]} | ({"category": found[:, 1:].mean(axis=1)} if known.any() else {})
        found = np.sqrt(self._cells(side, rows, np.append(2 * dim + 1, dim + np.arange(dim))))
        return {"bias": found[:, 0], "latent": found[:, 1:].mean(axis=1)}

    def vectors(self) -> Array:
        """See ItemVectors: q, which leaves out what the item's categories explain."""
        return self.item.values[:, : self.model.dim]

    def _cells(self, side: Side, rows: I32, columns: Array) -> F64:
        """A copy of these cells only, (rows, columns): a user's whole row takes 6 KB."""
        return (self.user if side == "user" else self.item).values[rows[:, None], columns].astype(np.float64)

    def condition(self, row: Array, preferences: Mapping[int, float], items: I32, values: F32) -> Array:
        """The row of a user with further preferences and ratings; changes nothing.

        `preferences`: category number -> the rating that its items deserve, taken as a rating of an item with this category
        and nothing else. `items`, `values`: ratings (n,) of item rows, -1 for an item never seen.
        """
        stated = {number: value for number, value in sorted(preferences.items()) if 0 <= number < self.model.known}
        numbers, stated_ratings = (
            np.array(list(stated), dtype=np.int32),
            np.array(list(stated.values()), dtype=np.float64),
        )
        moved = self._with_start_weights(row)
        condition_hybrid(
            moved, *self._kernel_tables(), numbers, stated_ratings, items, values.astype(np.float64), self.item.start, self.model,
        )  # fmt: skip
        return moved

    def ratings_of(self, items: I32) -> F64:
        """See Asking."""
        rows = np.append(self.item.values[:, -1], 0.0).astype(np.float64)  # the last entry is for items without a row
        return rows[np.where((items >= 0) & (items < len(rows) - 1), items, len(rows) - 1)]

    def questions(self, row: Array, items: I32, shares: F64, targets: I32, limit: int) -> tuple[I32, F64]:
        """See Asking. Cost: some us for each target, and 0.4 us for each item and question."""
        asked, variances = np.empty(limit, dtype=np.int32), np.empty(limit + 1)
        count = ask_hybrid(
            self._with_start_weights(row),
            *self._kernel_tables(),
            items,
            shares,
            targets,
            self.item.start,
            self.model,
            asked,
            variances,
        )
        return items[asked[:count]], variances[: count + 1]

    def describe(self, row: Array) -> Belief:
        """See Described: a category includes what the user's latent weights say about it."""
        m, n, own, stream = (
            self.model,
            self.size,
            self._with_start_weights(row).astype(np.float64),
            self.stream.values[0],
        )
        p, sigma = np.zeros((n, n)), deviation(self.stream.values)
        p[np.tril_indices(n)] = own[n:-4]
        p += np.tril(p, -1).T
        gamma = stream[BETA + m.known : BETA + m.known * (1 + m.dim)].reshape(m.known, m.dim)
        a = np.hstack([np.zeros((m.known, FIXED)), gamma, np.eye(m.known, m.categories)])
        deviations = np.sqrt(np.maximum(((a @ p) * a).sum(axis=1), 0.0))
        bias = sigma * own[BIAS], sigma * np.sqrt(p[BIAS, BIAS])
        return Belief(
            int(own[-1]), (float(bias[0]), float(bias[1])), sigma * np.column_stack([a @ own[:n], deviations])
        )

    def describes(self, row: Array) -> bool:
        """See Described."""
        return bool(row[-1] > 0)

    def place(self, row: Array) -> F64:
        """See Described: w without the session, minus that of a new user, divided by the deviations of its prior."""
        n, begin = self.size, self._with_start_weights(self.user.start)
        diagonal = self.user.start[n + np.arange(n) * (np.arange(n) + 3) // 2].astype(np.float64)
        return np.delete(
            (self._with_start_weights(row)[:n].astype(np.float64) - begin[:n]) / np.sqrt(diagonal), SESSION
        )

    def _kernel_tables(self) -> tuple[Array, Array, Array, Array, Array, Array]:
        category_words, category_sets = self.category_words.values, self.category_sets
        return (
            self.item.values,
            self.stream.values,
            self.set_sums.values,
            category_words,
            category_sets.sets.values,
            category_sets.representatives,
        )

    def _with_start_weights(self, row: Array) -> Array:
        """A copy of a user's row (a read-only one would compile the kernels again).

        The copy of a new user's row has the weights on consensus and popularity with which new users start, and their variances.
        """
        own = np.array(row)
        if own[-1] == 0:
            own[CONSENSUS], own[POPULARITY] = (
                self.stream.values[0, START_CONSENSUS],
                self.stream.values[0, START_POPULARITY],
            )
            n = self.size
            if np.array_equal(own[n:-4], self.user.start[n:-4]):  # without stated preferences
                begin_user(own, n, self.model)
        return own


def _initial_gamma(p: BayesianHybridParameters, known: int) -> F64:
    """The initial Gamma, (known * latent_dim,): 0 for categories with a weight, a random direction for each of the others.

    Its length lets a taste for such a category be about as strong as one for a category with a weight.
    """
    gamma = np.zeros((known, p.latent_dim))
    keys = np.array([id_key(0, "category", str(number)) for number in range(p.categories, known)], dtype=np.uint64)
    fill_normal(keys, gamma[p.categories :])
    norms = np.linalg.norm(gamma, axis=1, keepdims=True)
    gamma *= np.sqrt(p.category_prior / p.latent_prior) / np.maximum(norms, 1e-12)
    return gamma.ravel()
