"""Every learner in the registry passes every check, and each check catches learners with a fault."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from streamer.checks import learners as checks
from streamer.checks.batches import Ring
from streamer.checks.learners import CHECKS, CheckFailed, Make
from streamer.core.arrays import F32, I32, Array
from streamer.core.batch import RATING, Batch, Opinion, UserView
from streamer.core.protocols import Kind
from streamer.core.seed import mix64
from streamer.core.tables import Table
from streamer.models import LEARNERS, learner
from streamer.models.popularity import AllTimeParameters

# Learners of the default settings, which test-fast checks as well.
DEFAULT = ("bayesian-hybrid", "transitions", "skip-gram", "click-blend", "popularity-recent")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in LEARNERS]
)
def test_learner_keeps_its_promises(name: str, check: Callable[[Make], None]) -> None:
    check(lambda seed: learner(name, seed=seed))


class Toy:
    """Damped means of users and items, with one negative for each event, and with one named fault, or none.

    Its user and item rows are [noise, sum of errors, events, times a negative]; its stream is [sum, events, refused].
    """

    kind: Kind = "ratings"
    name = "toy"
    parameters = AllTimeParameters()

    def __init__(self, fault: str, seed: int) -> None:
        self.fault = fault
        self.user = Table("user", [0.0] * 4, random=1, scale=0.01)
        self.item = Table("item", [0.0] * 4, random=1, scale=0.01)
        self.stream = Table("stream", [0.0] * 3, dtype=np.float64)
        self.refusals = 0
        self.more = Table("user", [0.0])
        self.known: list[int] = []  # item rows with events: follows from the item table
        self.reads, self.draws, self.old = 0, 0, self.item.values

    def tables(self) -> Mapping[str, Table]:
        tables = {"user": self.user, "item": self.item, "stream": self.stream}
        if self.fault == "tables made anew":
            tables["stream"] = Table("stream", [0.0] * 3)
        return tables | ({"more": self.more} if self.fault == "two tables of users" else {})

    @property
    def refused(self) -> int:
        return self.refusals if self.fault == "refusals counted outside the tables" else int(self.stream.values[0, 2])

    def restored(self) -> None:
        if self.fault != "index not rebuilt":
            self.known = np.flatnonzero(self.item.values[:, 2]).tolist()

    def learn(self, batch: Batch) -> F32:
        if self.fault == "predicts the whole batch first":
            out = self.predict(batch)
            for k in range(len(batch)):
                self._event(batch, k)
            return out
        return np.array([self._event(batch, k) for k in range(len(batch))], dtype=np.float32)

    def learn_probed(self, batch: Batch, probes: I32) -> Opinion:
        out, scores = np.empty(len(batch), dtype=np.float32), np.empty(probes.shape, dtype=np.float32)
        for k in range(len(batch)):
            late = self.fault == "asked after it learned"
            if late:
                out[k] = self._event(batch, k)
            rows = self._rows(self.item, probes[k])
            scores[k] = [self._predict(self.user.values[batch.users[k]], row) for row in rows]
            if not late:
                out[k] = self._event(batch, k)
        return Opinion(out, scores)

    def predict(self, batch: Batch) -> F32:
        self.reads += 1
        if self.fault == "predict writes":
            self.item.values[batch.items, 3] += 0.0
            self.item.touched[batch.items] = 1
        if self.fault == "predict writes for unknown rows":
            self.user.values[batch.users[batch.users < 0], 3] += 1
        users, items = (self._rows(self.user, batch.users), self._rows(self.item, batch.items))
        out = np.array([self._predict(u, i) for u, i in zip(users, items, strict=True)], dtype=np.float32)
        out[batch.kinds != RATING] = np.nan
        if self.fault == "predict rounds":
            out = np.round(out, 2)
        if self.fault == "nothing for unknown rows":
            out[batch.users < 0] = 0.0
        if self.fault == "NaN for unknown rows":
            out[batch.items < 0] = np.nan
        return out

    def score(self, user: UserView, items: I32) -> F32:
        if self.fault == "score writes":
            self.stream.touched[0] = 1
        if self.fault == "score writes to the view":
            user.rows["toy"][3] += 1
        rows = self._rows(self.item, items)
        scores = np.array([self._predict(user.rows["toy"], row) for row in rows], dtype=np.float32)
        if self.fault == "scores sorted":
            scores.sort()
        if self.fault == "scores relative to one another" and len(scores):
            scores -= scores.max()
        if self.fault == "no score for unknown items":
            scores[items < 0] = np.nan
        return scores

    def _rows(self, table: Table, rows: I32) -> list[Array]:
        taken = self.fault == "the last row for unknown ones"
        return [table.values[row] if row >= 0 or taken else table.start for row in rows.tolist()]

    def _predict(self, u: Array, i: Array) -> float:
        mean = self.stream.values[0, 0] / max(self.stream.values[0, 1], 1.0)
        damped = [float(row[1]) / (float(row[2]) + 5.0) for row in (u, i)]
        return float(mean + sum(damped) + float(u[0]) + float(i[0]) - 0.01 * float(i[3]))

    def _event(self, batch: Batch, k: int) -> float:
        fault, user, item = self.fault, int(batch.users[k]), int(batch.items[k])
        values = self.old if fault == "keeps an old array" and len(self.old) > item else self.item.values
        self.old = values
        u, i, y = self.user.values[user], values[item], float(batch.values[k])
        if fault == "noise not from the seed":
            u[0] = i[0] = 0.001
        if fault == "depends on the user's row":
            u[1] += 0.001 * (user % 3)
        predicted = self._predict(u, i)
        if batch.kinds[k] != RATING and fault not in ("answers every kind", "learns from every kind"):
            return float("nan")
        if fault == "learns nothing":
            return predicted
        damaged = not np.isfinite(predicted) and fault != "damage spreads"
        if damaged or (not abs(y) < 100 and fault != "believes anything"):
            self.refusals += 1
            self.stream.values[0, 2] += 0.0 if fault == "refusals not counted" else 1.0
            self.stream.touched[0] = 1
            return predicted
        error = (y - predicted) * (12.0 if fault == "steps too large" else 1.0)
        for row in (u, i):
            row[1] += error
            row[2] += 0.0 if fault == "steps too large" else 1.0
        self.stream.values[0] += (y, 1.0, 1.0 if fault == "everything counted as refused" else 0.0)
        for table, row in ((self.user, user), (self.item, item), (self.stream, 0)):
            table.touched[row] = fault != "own row not marked" or table is not self.item
        if fault == "marks everything":
            self.user.touched[:] = self.item.touched[:] = 1
        self._negative(batch, k, user)
        if item not in self.known:
            self.known = sorted([*self.known, item])
        if batch.kinds[k] != RATING and fault == "learns from every kind":
            return float("nan")
        return self._predict(u, i) if fault == "learns before it predicts" else predicted

    def _negative(self, batch: Batch, k: int, user: int) -> None:
        if not self.known:
            return
        key, fault = batch.keys[k], self.fault
        self.draws += 1
        if fault == "draws counted outside the tables":
            key = np.uint64(self.draws)
        if fault == "reads counted in draws":
            key += np.uint64(self.reads)
        if fault == "noise not from the seed":
            key = np.uint64(int(self.stream.values[0, 1]))
        if fault == "process-wide random generator":
            key = np.uint64(_GENERATOR.integers(1 << 32))
        row = self.known[int(mix64(key, 0) % np.uint64(len(self.known)))]
        seen = batch.seen
        count = int(seen.counts[user] if fault == "seen of the future" else batch.seen_counts[k])
        numbers, size = np.arange(max(0, count - seen.window), count), seen.pages.shape[1]
        places = numbers % (size * seen.page_of.shape[1]) // size
        if row not in seen.pages[seen.page_of[user, places], numbers % size]:
            self.item.values[row, 3] += 1
            if fault != "negatives not marked":
                self.item.touched[row] = 1


_GENERATOR = np.random.default_rng(1)

CAUGHT = {
    "tables made anew": checks.implements_the_protocol,
    "two tables of users": checks.implements_the_protocol,
    "predicts the whole batch first": checks.batch_size_does_not_matter,
    "seen of the future": checks.batch_size_does_not_matter,
    "predict writes": checks.reading_changes_nothing,
    "predict writes for unknown rows": checks.reading_changes_nothing,
    "score writes": checks.reading_changes_nothing,
    "score writes to the view": checks.reading_changes_nothing,
    "reads counted in draws": checks.reading_changes_nothing,
    "own row not marked": checks.changes_are_marked,
    "negatives not marked": checks.changes_are_marked,
    "marks everything": checks.only_own_rows_change,
    "learns before it predicts": checks.predicts_before_learning,
    "learns nothing": checks.predicts_before_learning,
    "predict rounds": checks.predict_is_what_learn_returns,
    "index not rebuilt": checks.survives_a_restart,
    "draws counted outside the tables": checks.survives_a_restart,
    "keeps an old array": checks.row_numbers_do_not_matter,
    "depends on the user's row": checks.row_numbers_do_not_matter,
    "scores sorted": checks.scores_keep_their_order,
    "scores relative to one another": checks.scores_keep_their_order,
    "no score for unknown items": checks.scores_keep_their_order,
    "answers every kind": checks.predicts_its_kind_only,
    "learns from every kind": checks.predicts_its_kind_only,
    "nothing for unknown rows": checks.predicts_for_unseen_rows,
    "the last row for unknown ones": checks.predicts_for_unseen_rows,
    "NaN for unknown rows": checks.predicts_for_unseen_rows,
    "noise not from the seed": checks.depends_on_its_seed_alone,
    "process-wide random generator": checks.depends_on_its_seed_alone,
    "steps too large": checks.repeats_do_not_diverge,
    "believes anything": checks.refuses_values_that_are_not_finite,
    "refusals not counted": checks.counts_refused_steps,
    "everything counted as refused": checks.counts_refused_steps,
    "refusals counted outside the tables": checks.counts_refused_steps,
    "damage spreads": checks.damage_stays_in_its_row,
    "asked after it learned": checks.probed_scores_match_score,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_passes_a_learner_without_a_fault(check: Callable[[Make], None]) -> None:
    check(lambda seed: Toy("", seed))


@pytest.mark.parametrize("fault", CAUGHT)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_each_fault_is_caught_by_its_check(fault: str) -> None:
    with pytest.raises(CheckFailed):
        CAUGHT[fault](lambda seed: Toy(fault, seed))


def test_every_check_catches_some_fault() -> None:
    assert set(CAUGHT.values()) == set(CHECKS)


def test_ring_holds_what_was_seen_before_each_event_of_a_batch() -> None:
    ring = Ring(1, page=2, window=3, longest=2)
    before = [ring.put(0, item) for item in (7, 8, 7, 9, 5, 7)]
    assert before == [0, 1, 2, 2, 3, 4]  # the last 7 had left the window of 3: it is seen anew
    assert ring.seen().counts.tolist() == [5]
    assert ring.pages[ring.page_of[0]].ravel().tolist() == [7, 8, 9, 5, 7, -1]  # the first 7 is still there
