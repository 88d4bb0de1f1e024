"""What retraining is worth: a stream learned online only, compared rating by rating with the same stream with retrainings.

After every `every_events` events the stream pauses while candidates are trained on all events so far, each in a state of its own,
a copy of the live one. Then it continues as in the service: the live state and the candidates learn the same records, the gate
compares them on paired errors, and the winner becomes live. The former live state goes on learning, and returns if it turns
out better. The predictions reported are those of the state that was live at the time.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streamer.core.answers import Score
from streamer.core.arrays import F64, I64
from streamer.core.batch import RATING, Batch, Events
from streamer.core.events import Record
from streamer.core.protocols import Source
from streamer.core.settings import EVALUATED_RECORDS, Settings
from streamer.renormalise import gate
from streamer.renormalise.churn import Churn
from streamer.renormalise.training import ALL, Candidate, refit, replace_tables
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

ONLINE = "online"
TENTHS = 10
DAY_MS = 86_400_000
LAST_DAYS = 10  # regret is also reported for this many last days of a simulated world


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate and its outcome."""

    cut_events: int  # number of events it was trained on
    candidate: str
    outcome: str  # promoted, rejected, rolled back, or undecided at the next cut or the end
    ratings: int  # number of ratings it was compared on
    before_rmse: float | None = None  # of the live state on these ratings
    after_rmse: float | None = None  # of the candidate on these ratings
    seconds: float  # CPU time of the training
    churn: Churn | None = None  # of the learner of ratings


class RetrainingComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The stream with retrainings compared with the same stream without; None where a figure does not apply."""

    every_events: int
    candidates: tuple[str, ...]
    generations: tuple[Generation, ...]
    online_rmse_tenths: tuple[float, ...]  # for each tenth of the ratings, in order
    rmse_tenths: tuple[float, ...]
    online_rmse: float | None = None
    rmse: float | None = None
    difference: float | None = None  # mean difference of squared errors; below 0, retraining is better
    half_width: float | None = None  # of its 95% interval, by batch means
    online_regret: float | None = None
    regret: float | None = None
    online_regret_last_days: float | None = None  # over the last 10 days of events
    regret_last_days: float | None = None
    regret_difference: float | None = None  # over these days, of the mean of (prediction - expectation)^2
    regret_half_width: float | None = None


class _Learned(NamedTuple):
    """A batch that a branch has learned."""

    batch: Batch
    user_ids: list[str]  # of its events
    predicted: F64  # (n,) by the learner of ratings
    expected: F64  # (ratings,) the true expectations of the ratings if the stream has them, else (0,)


class _Branch:
    """A state that learns the stream."""

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.store = RocksStore(folder)
        self.memory = Memory(learners(settings), settings, self.store)
        self.memory.monitor.regret.watching = True
        self.memory.monitor.silence()
        self.errors = self.memory.monitor.errors[settings.learning.rating_learner]
        self.since = self.errors.ratings  # number of ratings when its comparison began

    def learn(self, records: Sequence[Record]) -> list[_Learned]:
        """Learn the records; return the batches that have events."""
        found, memory = [], self.memory
        for part, batch in memory.encoder.encode(records, memory.commit):
            expected = memory.monitor.regret.latest_expected
            predictions = memory.learners.learn(batch)
            memory.monitor.observe(batch, predictions)
            memory.ledger.advance(part)
            if len(batch):
                user_ids = [memory.users.ids[row] for row in batch.users.tolist()]
                predicted = predictions[self.errors.learner].astype(np.float64)
                found.append(_Learned(batch, user_ids, predicted, expected))
        return found

    def copy(self, name: str, settings: Settings, folder: Path) -> "_Branch":
        """A new branch that continues from this state."""
        self.memory.commit()
        folder.mkdir()
        self.store.checkpoint(folder / "state")
        return _Branch(name, settings, folder)


class _Observed:
    """The events so far, by ids, and every rating with the predictions of the online and the live state."""

    def __init__(self) -> None:
        self.user_of: dict[str, int] = {}
        self.users: list[int] = []
        self.batches: list[Batch] = []
        self.values: list[F64] = []
        self.times: list[I64] = []
        self.expected: list[F64] = []
        self.predicted: dict[str, list[F64]] = {ONLINE: [], "live": []}

    def events(self, item_ids: Sequence[str]) -> Events:
        """All events so far."""
        names = ("items", "kinds", "values", "times_ms", "keys")
        columns = [np.concatenate([getattr(batch, name) for batch in self.batches]) for name in names]
        return Events(list(self.user_of), list(item_ids), np.array(self.users, dtype=np.int32), *columns)

    def record(self, learned: _Learned) -> None:
        """Add a batch that a branch has learned."""
        batch, user_of = learned.batch, self.user_of
        self.users += [user_of.setdefault(user_id, len(user_of)) for user_id in learned.user_ids]
        self.batches.append(batch)
        rated = batch.kinds == RATING
        self.values.append(batch.values[rated].astype(np.float64))
        self.times.append(batch.times_ms[rated])
        count = int(np.count_nonzero(rated))
        self.expected.append(learned.expected if len(learned.expected) == count else np.full(count, np.nan))


class Trial(NamedTuple):
    """How often retrainings are tried, and which candidates."""

    every_events: int
    candidates: tuple[Candidate, ...] = (ALL,)


def compare_with_retraining(
    settings: Settings, open_source: Callable[[], Source], trial: Trial, progress: Callable[[int, int], None]
) -> RetrainingComparison:
    """Learn the whole stream that `open_source` opens, with and without retrainings. Raises the same errors as `evaluate`.

    Cost: that of learning the stream once for each state that exists at a time, plus the trainings.
    """
    source, observed = open_source(), _Observed()
    total = sum(count for partitions in source.lag().values() for count in partitions.values())
    with ExitStack() as stack:
        stack.callback(source.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-")))
        states = _States(settings, folder, trial.candidates)
        stack.callback(states.close)
        done, due = 0, trial.every_events
        while records := source.poll(
            min(settings.learning.max_records or EVALUATED_RECORDS, due - len(observed.users)), 0.0
        ):
            states.learn(records, observed)
            done += len(records)
            progress(done, total)
            if len(observed.users) >= due and done < total:
                states.cut(observed)
                due += trial.every_events
            states.decide()
        states.end("undecided")
        return _result(trial, states.generations, observed)


class _States:
    """The states that currently learn: online only, live, formerly live, and candidates."""

    def __init__(self, settings: Settings, folder: Path, candidates: Sequence[Candidate]) -> None:
        self._settings, self._folder, self._candidates = settings, folder, candidates
        self._online = self._live = _Branch(ONLINE, settings, folder / ONLINE)
        self._before: _Branch | None = None
        self._competing: dict[_Branch, Generation] = {}
        self.generations: list[Generation] = []
        self._made = 0

    def learn(self, records: Sequence[Record], observed: _Observed) -> None:
        """Let all states learn, and record the predictions of the online and the live one."""
        branches = dict.fromkeys([self._online, self._live, *self._competing, *filter(None, [self._before])])
        found = {branch: branch.learn(records) for branch in branches}
        for learned in found[self._online]:
            observed.record(learned)
        for name, branch in ((ONLINE, self._online), ("live", self._live)):
            observed.predicted[name] += [one.predicted[one.batch.kinds == RATING] for one in found[branch]]

    def cut(self, observed: _Observed) -> None:
        """Train the candidates on all events so far; those of the previous cut end undecided."""
        self.end("undecided")
        events = observed.events(self._online.memory.items.ids)
        for candidate in self._candidates:
            self._made += 1
            branch = self._live.copy(candidate.name, self._settings, self._folder / f"g{self._made}")
            began = time.process_time()
            found = refit(branch.memory, events, chosen=candidate)
            seconds = time.process_time() - began
            replace_tables(branch.memory, found)
            self._competing[branch] = Generation(
                cut_events=len(events), candidate=candidate.name, outcome="", ratings=0, seconds=seconds,
                churn=found.churn.get(branch.errors.learner),
            )  # fmt: skip

    def decide(self) -> None:
        """Let the gate decide about the candidates, and whether the live state is still better than the former one."""
        chosen, verdicts = self._settings.renormalisation, dict[_Branch, tuple[Score, bool | None]]()
        for branch in self._competing:
            score = gate.compare(self._live.errors, branch.errors, branch.since)
            if score is not None:
                verdicts[branch] = score, gate.verdict(score, chosen)
        left = [branch for branch, (_, better) in verdicts.items() if better is not False]
        winner = min(left, key=lambda branch: verdicts[branch][0].difference, default=None)
        if winner is not None and verdicts[winner][1]:  # the best candidate must pass, not just any
            self._discard(self._before)
            self._before, self._live = self._live, winner
            self._before.since = winner.since = winner.errors.ratings
            for branch in list(self._competing):
                self._finish(branch, "promoted" if branch is winner else "rejected", verdicts[branch][0])
            return
        for branch, (score, better) in verdicts.items():
            if better is False:
                self._finish(branch, "rejected", score)
        if self._before is not None:
            score = gate.compare(self._before.errors, self._live.errors, self._live.since)
            if score is not None and gate.verdict(score, chosen) is False:
                worse, self._live, self._before = self._live, self._before, None
                self.end("undecided")
                self.generations.append(_with_outcome(self._last_promoted(), "rolled back", score))
                self._discard(worse)
            elif score is not None and score.ratings >= chosen.watch_events:
                self._discard(self._before)
                self._before = None

    def end(self, outcome: str) -> None:
        """End the comparison of all candidates without a decision."""
        for branch in list(self._competing):
            self._finish(branch, outcome, gate.compare(self._live.errors, branch.errors, branch.since))

    def close(self) -> None:
        """Close all states."""
        for branch in (self._online, self._live, *filter(None, [self._before]), *self._competing):
            branch.store.close()

    def _last_promoted(self) -> Generation:
        return next(found for found in reversed(self.generations) if found.outcome == "promoted")

    def _finish(self, branch: _Branch, outcome: str, score: Score | None) -> None:
        self.generations.append(_with_outcome(self._competing.pop(branch), outcome, score))
        if branch is not self._live:
            self._discard(branch)

    def _discard(self, branch: _Branch | None) -> None:
        if branch is not None and branch is not self._online:
            branch.store.close()


def _with_outcome(generation: Generation, outcome: str, score: Score | None) -> Generation:
    found = {} if score is None else {"before_rmse": score.before_rmse, "after_rmse": score.after_rmse}
    return msgspec.structs.replace(generation, outcome=outcome, ratings=0 if score is None else score.ratings, **found)


def _result(trial: Trial, generations: Sequence[Generation], observed: _Observed) -> RetrainingComparison:
    values, expected, times = (_concatenate(parts) for parts in (observed.values, observed.expected, observed.times))
    online, live = (_concatenate(observed.predicted[name]) for name in (ONLINE, "live"))
    both = np.isfinite(online) & np.isfinite(live)
    squares = [np.square(predicted[both] - values[both]) for predicted in (online, live)]
    fields: dict[str, Any] = {
        "every_events": trial.every_events,
        "candidates": tuple(candidate.name for candidate in trial.candidates),
        "generations": tuple(generations),
        "online_rmse_tenths": tenths(squares[0]),
        "rmse_tenths": tenths(squares[1]),
    }
    if not both.any():
        return RetrainingComparison(**fields)
    found: dict[str, Any] = {"online_rmse": sqrt(squares[0].mean()), "rmse": sqrt(squares[1].mean())}
    found["difference"], found["half_width"] = gate.interval(squares[1] - squares[0])
    known = both & np.isfinite(expected)
    late = known & (times > times.max() - LAST_DAYS * DAY_MS)
    for name, chosen in (("", known), ("_last_days", late)):
        if chosen.any():
            noise = float(np.square(values[chosen] - expected[chosen]).mean())
            missed = [np.square(predicted[chosen] - expected[chosen]) for predicted in (online, live)]
            regrets = [sqrt(noise + squared.mean()) - sqrt(noise) for squared in missed]
            found[f"online_regret{name}"], found[f"regret{name}"] = regrets
            if name:
                found["regret_difference"], found["regret_half_width"] = gate.interval(missed[1] - missed[0])
    return RetrainingComparison(**fields, **found)


def tenths(squares: F64) -> tuple[float, ...]:
    """RMSE of each tenth of the squared errors (n,); empty for fewer than ten."""
    if len(squares) < TENTHS:
        return ()
    return tuple(sqrt(part.mean()) for part in np.array_split(squares, TENTHS))


def _concatenate(parts: Sequence[F64] | Sequence[I64]) -> F64:
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)
