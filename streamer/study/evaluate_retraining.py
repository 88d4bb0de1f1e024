"""What renormalising is worth: a stream learned online only and, beside it, with retrainings, rating for rating.

At every `every_events` the stream stands while candidates are trained on all events so far, each put into a state of its own,
a copy of the live one. Then it goes on as it does in the service: live and candidates learn the same records and are compared pair
by pair by the gate, the winner takes the live one's place, and the one before learns on beside it and comes back should
it turn out the better one. What is reported is what whoever was live at the time had predicted.
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
from streamer.renormalise.training import ALL, Candidate, put_in, retrained
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.memory import Memory

ONLINE = "online"
TENTHS = 10
DAY_MS = 86_400_000
LAST_DAYS = 10  # of a simulated world, that regret is told of


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one candidate."""

    cut_events: int  # events it was trained on
    candidate: str
    outcome: str  # promoted, rejected, rolled back, or undecided when the next cut or the end came
    ratings: int  # that it was compared on
    before_rmse: float | None = None  # of the live one, on them
    after_rmse: float | None = None
    seconds: float  # CPU that training took
    churn: Churn | None = None  # of the learner of ratings


class Renormalised(msgspec.Struct, frozen=True, kw_only=True):
    """The stream with retrainings against the same stream without; None where there is nothing to say."""

    every_events: int
    candidates: tuple[str, ...]
    generations: tuple[Generation, ...]
    online_rmse_tenths: tuple[float, ...]  # of the ratings, by count
    rmse_tenths: tuple[float, ...]
    online_rmse: float | None = None
    rmse: float | None = None
    difference: float | None = None  # mean of the squared errors' differences: below 0 is better
    half_width: float | None = None  # of its 95% interval, by batch means
    online_regret: float | None = None
    regret: float | None = None
    online_regret_last_days: float | None = None  # over the last 10 days of events
    regret_last_days: float | None = None
    regret_difference: float | None = None  # over these days, of mean squares of prediction less expectation
    regret_half_width: float | None = None


class _Learned(NamedTuple):
    """A batch that a line learned."""

    batch: Batch
    user_ids: list[str]  # of its events
    predicted: F64  # (n,) by the learner of ratings
    expected: F64  # (ratings,) of the batch's ratings, where the stream says it; (0,) elsewhere


class _Line:
    """One state that learns the stream."""

    def __init__(self, name: str, settings: Settings, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.store = RocksStore(folder)
        self.memory = Memory(learners(settings), settings, self.store)
        self.memory.monitor.regret.watching = True
        self.memory.monitor.repeated_input.silent = True
        self.errors = self.memory.monitor.errors[settings.learning.rating_learner]
        self.since = self.errors.ratings  # ratings when it began to be compared

    def learn(self, records: Sequence[Record]) -> list[_Learned]:
        """What was learned; batches without events are left out."""
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

    def copied(self, name: str, settings: Settings, folder: Path) -> "_Line":
        """Another line that goes on from here."""
        self.memory.commit()
        folder.mkdir()
        self.store.checkpoint(folder / "state")
        return _Line(name, settings, folder)


class _Told:
    """The events so far, by ids, and every rating with what was predicted by whom."""

    def __init__(self) -> None:
        self.user_of: dict[str, int] = {}
        self.users: list[int] = []
        self.batches: list[Batch] = []
        self.values: list[F64] = []
        self.times: list[I64] = []
        self.expected: list[F64] = []
        self.predicted: dict[str, list[F64]] = {ONLINE: [], "live": []}

    def events(self, item_ids: Sequence[str]) -> Events:
        """All of them."""
        names = ("items", "kinds", "values", "times_ms", "keys")
        columns = [np.concatenate([getattr(batch, name) for batch in self.batches]) for name in names]
        return Events(list(self.user_of), list(item_ids), np.array(self.users, dtype=np.int32), *columns)

    def note(self, learned: _Learned) -> None:
        """One batch, by whoever learned it."""
        batch, user_of = learned.batch, self.user_of
        self.users += [user_of.setdefault(user_id, len(user_of)) for user_id in learned.user_ids]
        self.batches.append(batch)
        rated = batch.kinds == RATING
        self.values.append(batch.values[rated].astype(np.float64))
        self.times.append(batch.times_ms[rated])
        count = int(np.count_nonzero(rated))
        self.expected.append(learned.expected if len(learned.expected) == count else np.full(count, np.nan))


class Trial(NamedTuple):
    """What is to be tried."""

    every_events: int
    candidates: tuple[Candidate, ...] = (ALL,)


def renormalised(
    settings: Settings, opened: Callable[[], Source], trial: Trial, progress: Callable[[int, int], None]
) -> Renormalised:
    """Learn what `opened` reads from its beginning, with and without. Raises what evaluating raises.

    Cost: that of learning the stream once for each state there is at a time, and of the trainings.
    """
    source, on_progress = opened(), _Told()
    total = sum(count for partitions in source.lag().values() for count in partitions.values())
    with ExitStack() as stack:
        stack.callback(source.close)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamer-")))
        states = _States(settings, folder, trial.candidates)
        stack.callback(states.close)
        done, due = 0, trial.every_events
        while records := source.poll(
            min(settings.learning.max_records or EVALUATED_RECORDS, due - len(on_progress.users)), 0.0
        ):
            states.learn(records, on_progress)
            done += len(records)
            progress(done, total)
            if len(on_progress.users) >= due and done < total:
                states.cut(on_progress)
                due += trial.every_events
            states.decide()
        states.end("undecided")
        return _reported(trial, states.generations, on_progress)


class _States:
    """The states that learn at the moment: online only, live, the one before, candidates."""

    def __init__(self, settings: Settings, folder: Path, candidates: Sequence[Candidate]) -> None:
        self._settings, self._folder, self._candidates = settings, folder, candidates
        self._online = self._live = _Line(ONLINE, settings, folder / ONLINE)
        self._before: _Line | None = None
        self._competing: dict[_Line, Generation] = {}
        self.generations: list[Generation] = []
        self._made = 0

    def learn(self, records: Sequence[Record], on_progress: _Told) -> None:
        """All of them learn; what online and live predicted is told."""
        lines = dict.fromkeys([self._online, self._live, *self._competing, *filter(None, [self._before])])
        found = {line: line.learn(records) for line in lines}
        for learned in found[self._online]:
            on_progress.note(learned)
        for name, line in ((ONLINE, self._online), ("live", self._live)):
            on_progress.predicted[name] += [one.predicted[one.batch.kinds == RATING] for one in found[line]]

    def cut(self, on_progress: _Told) -> None:
        """Train the candidates on all that was told; those of the last cut had their chance."""
        self.end("undecided")
        events = on_progress.events(self._online.memory.items.ids)
        for candidate in self._candidates:
            self._made += 1
            line = self._live.copied(candidate.name, self._settings, self._folder / f"g{self._made}")
            began = time.process_time()
            found = retrained(line.memory, events, chosen=candidate)
            seconds = time.process_time() - began
            put_in(line.memory, found)
            self._competing[line] = Generation(
                cut_events=len(events), candidate=candidate.name, outcome="", ratings=0, seconds=seconds,
                churn=found.churn.get(line.errors.learner),
            )  # fmt: skip

    def decide(self) -> None:
        """Ask the gate about the candidates, and about the live one whether it is worth its place."""
        chosen, verdicts = self._settings.renormalisation, dict[_Line, tuple[Score, bool | None]]()
        for line in self._competing:
            score = gate.scored(self._live.errors, line.errors, line.since)
            if score is not None:
                verdicts[line] = score, gate.verdict(score, chosen)
        left = [line for line, (_, better) in verdicts.items() if better is not False]
        winner = min(left, key=lambda line: verdicts[line][0].difference, default=None)
        if winner is not None and verdicts[winner][1]:  # whoever leads has to pass, not whoever passes first
            self._let_go(self._before)
            self._before, self._live = self._live, winner
            self._before.since = winner.since = winner.errors.ratings
            for line in list(self._competing):
                self._settle(line, "promoted" if line is winner else "rejected", verdicts[line][0])
            return
        for line, (score, better) in verdicts.items():
            if better is False:
                self._settle(line, "rejected", score)
        if self._before is not None:
            score = gate.scored(self._before.errors, self._live.errors, self._live.since)
            if score is not None and gate.verdict(score, chosen) is False:
                worse, self._live, self._before = self._live, self._before, None
                self.end("undecided")
                self.generations.append(_settled(self._last_promoted(), "rolled back", score))
                self._let_go(worse)
            elif score is not None and score.ratings >= chosen.watch_events:
                self._let_go(self._before)
                self._before = None

    def end(self, outcome: str) -> None:
        """Let go of the candidates that nothing was decided about."""
        for line in list(self._competing):
            self._settle(line, outcome, gate.scored(self._live.errors, line.errors, line.since))

    def close(self) -> None:
        """Let go of everything."""
        for line in (self._online, self._live, *filter(None, [self._before]), *self._competing):
            line.store.close()

    def _last_promoted(self) -> Generation:
        return next(found for found in reversed(self.generations) if found.outcome == "promoted")

    def _settle(self, line: _Line, outcome: str, score: Score | None) -> None:
        self.generations.append(_settled(self._competing.pop(line), outcome, score))
        if line is not self._live:
            self._let_go(line)

    def _let_go(self, line: _Line | None) -> None:
        if line is not None and line is not self._online:
            line.store.close()


def _settled(generation: Generation, outcome: str, score: Score | None) -> Generation:
    found = {} if score is None else {"before_rmse": score.before_rmse, "after_rmse": score.after_rmse}
    return msgspec.structs.replace(generation, outcome=outcome, ratings=0 if score is None else score.ratings, **found)


def _reported(trial: Trial, generations: Sequence[Generation], on_progress: _Told) -> Renormalised:
    values, expected, times = (
        _joined(parts) for parts in (on_progress.values, on_progress.expected, on_progress.times)
    )
    online, live = (_joined(on_progress.predicted[name]) for name in (ONLINE, "live"))
    there = np.isfinite(online) & np.isfinite(live)
    squares = [np.square(predicted[there] - values[there]) for predicted in (online, live)]
    told_of: dict[str, Any] = {
        "every_events": trial.every_events,
        "candidates": tuple(candidate.name for candidate in trial.candidates),
        "generations": tuple(generations),
        "online_rmse_tenths": tenths(squares[0]),
        "rmse_tenths": tenths(squares[1]),
    }
    if not there.any():
        return Renormalised(**told_of)
    found: dict[str, Any] = {"online_rmse": sqrt(squares[0].mean()), "rmse": sqrt(squares[1].mean())}
    found["difference"], found["half_width"] = gate.interval(squares[1] - squares[0])
    known = there & np.isfinite(expected)
    late = known & (times > times.max() - LAST_DAYS * DAY_MS)
    for name, chosen in (("", known), ("_last_days", late)):
        if chosen.any():
            noise = float(np.square(values[chosen] - expected[chosen]).mean())
            missed = [np.square(predicted[chosen] - expected[chosen]) for predicted in (online, live)]
            regrets = [sqrt(noise + squared.mean()) - sqrt(noise) for squared in missed]
            found[f"online_regret{name}"], found[f"regret{name}"] = regrets
            if name:
                found["regret_difference"], found["regret_half_width"] = gate.interval(missed[1] - missed[0])
    return Renormalised(**told_of, **found)


def tenths(squares: F64) -> tuple[float, ...]:
    """RMSE of each tenth of the squared errors (n,); none for fewer than ten."""
    if len(squares) < TENTHS:
        return ()
    return tuple(sqrt(part.mean()) for part in np.array_split(squares, TENTHS))


def _joined(parts: Sequence[F64] | Sequence[I64]) -> F64:
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0)
