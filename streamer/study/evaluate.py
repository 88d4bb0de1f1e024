"""Prequential evaluation of a stream: every event is predicted before it is learned, by the learners that serve.

The stream is read twice through decoder, encoder, learners and store. The first pass runs as the service does, to measure speed
from reading the file to the committed state, in a temporary folder. The second goes click by click, with a ranking
before each. Both passes must give the same errors bit for bit, or nothing is reported.
"""

import gc
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isnan, sqrt
from pathlib import Path

import msgspec
import numpy as np

from streamer.core.arrays import F32, F64
from streamer.core.batch import RATING, Batch
from streamer.core.errors import StoreUnavailable, StreamerError
from streamer.core.events import CLICKS, LOG, RATINGS
from streamer.core.garbage_collection import give_back_memory
from streamer.core.protocols import Source, Stating
from streamer.core.settings import EVALUATED_RECORDS, KafkaSettings, Settings
from streamer.models import learner
from streamer.monitoring.monitor import (
    CHANGED,
    DUPLICATE,
    LEARNED,
    NOT_RATED,
    RESTATED,
    SAID_BEFORE,
    WITHDRAWN,
    Errors,
    Monitor,
)
from streamer.serving.opening import learners
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.learners import Learners
from streamer.stream.memory import Memory
from streamer.study.click_figures import ClickFigures, Queries, Repeats
from streamer.study.evaluate_retraining import RetrainingComparison, Trial, compare_with_retraining, tenths
from streamer.study.ranking import Ranking

NEW_RATINGS = 10  # a user or item with fewer earlier ratings counts as new

Progress = Callable[[int, int], None]  # gets the number of records done and that of all records, in both passes


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The output of `streamer evaluate --json`; None where a figure does not apply."""

    stream: str | None = None  # the PATH, as given
    learner: str
    rating_learner: str
    click_learner: str
    seed: int
    events: int  # learned ratings and clicks, without the catalogue, dead letters and duplicates
    ratings: int
    clicks: int  # events whose weight as a click is above 0, including likes
    queries: int | None  # clicks that were ranked, see `repeats`; None: without ranking
    repeats: str | None  # exclude: a click on an item that its user clicked before is no query; allow: it is one
    repeated_share: float | None  # the share of such clicks
    dead_letters: int
    duplicates: int
    replaced: int  # ratings in place of an earlier one of the same user and item: learned, but not among the errors
    repeated: int  # the same rating again, or a click again within seconds: left out
    retracted: int  # ratings withdrawn
    not_rated: int  # withdrawals of ratings that were not there
    refed: int  # events that seem to be fed again
    unpredicted: int  # ratings without a finite prediction; they are left out of the errors
    users: int
    items: int  # items with an event or in the catalogue
    rmse: float | None
    rmse_by_learner: dict[str, float | None]  # every learner of ratings in the run: champion, shadows, experts
    rmse_tenths: tuple[float, ...]  # for each tenth of the ratings, in order; empty for fewer than ten ratings
    rmse_last_half: float | None
    rmse_new_users: float | None
    rmse_new_items: float | None
    coverage_80: float | None  # share of ratings in the 80% interval that the rating learner stated, if it states one
    log_score_gain: float | None  # nats a rating by which it beats one constant variance, see protocols.Stated
    oracle_rmse: float | None  # of an oracle that knows the truth of a simulated world: the least possible
    regret: float | None  # RMSE above the oracle's; see streamer.monitoring.regret
    hit_rate_10: float | None
    hit_rate_20: float | None
    ndcg_20: float | None
    mrr_20: float | None
    sessions: int | None  # as the stream names them, or else by pauses, see streamer.monitoring.sessions
    session_queries: int | None  # clicks with an earlier click in their session
    session_hit_rate_20: float | None  # of these, repeats allowed
    session_mrr_20: float | None
    click_learners: dict[
        str, ClickFigures
    ]  # every learner of clicks that ranked: champion, shadows, on request experts
    events_per_second: float | None  # per second of CPU: read, learned and committed, without ranking
    ranking_seconds: float | None  # CPU time
    wall_seconds: float
    renormalised: RetrainingComparison | None = None  # the same stream with retrainings, if requested


@dataclass
class _Squares:
    """Squared errors of some of the ratings."""

    total: float = 0.0
    count: int = 0

    def add(self, squares: F64) -> None:
        self.total += float(squares.sum())
        self.count += len(squares)

    @property
    def rmse(self) -> float | None:
        return sqrt(self.total / self.count) if self.count else None


@dataclass
class _Errors:
    """The errors of the champion for ratings: all, in the last half, on new users and on new items."""

    half: int  # the number of ratings before the last half
    ratings: int = 0
    squares: list[F64] = field(default_factory=list)
    last_half: _Squares = field(default_factory=_Squares)
    new_users: _Squares = field(default_factory=_Squares)
    new_items: _Squares = field(default_factory=_Squares)
    of_user: Counter[str] = field(default_factory=Counter)
    of_item: Counter[int] = field(default_factory=Counter)

    def observe(self, batch: Batch, predicted: F32, user_ids: Sequence[str]) -> None:
        """Add the ratings of a batch; `user_ids` are by user row."""
        rated = np.flatnonzero(batch.kinds == RATING)
        if not len(rated):
            return
        squares = np.square(predicted[rated].astype(np.float64) - batch.values[rated])
        finite = np.isfinite(squares)
        late = np.arange(self.ratings, self.ratings + len(rated)) >= self.half
        earlier_users, earlier_items = np.empty(len(rated)), np.empty(len(rated))
        for n, k in enumerate(rated.tolist()):
            user, item = user_ids[batch.users[k]], int(batch.items[k])
            earlier_users[n], earlier_items[n] = self.of_user[user], self.of_item[item]
            self.of_user[user] += 1
            self.of_item[item] += 1
        self.ratings += len(rated)
        self.squares.append(squares[finite])
        self.last_half.add(squares[finite & late])
        self.new_users.add(squares[finite & (earlier_users < NEW_RATINGS)])
        self.new_items.add(squares[finite & (earlier_items < NEW_RATINGS)])


def evaluate(
    name: str, settings: Settings, open_source: Callable[[], Source], *, rank: bool, progress: Progress,
    trial: Trial | None = None, repeats: Repeats = "exclude", rank_experts: bool = False,
) -> Evaluation:  # fmt: skip
    """Evaluate the learner `name` as champion of its kind on the whole stream that `open_source` opens.

    With `rank`, the champion and the shadows for clicks rank each click, with `rank_experts` also the experts of both. With a `trial` the stream is learned once more with retrainings (streamer.study.evaluate_retraining); all other figures are
    without them. The state directory in `settings` is not touched. Raises BadSettings for an unknown learner, StoreUnavailable
    when the temporary folder is full, and StreamerError when the two passes differ.
    """
    settings = with_champion(name, settings)
    began, cpu = time.perf_counter(), time.process_time()
    source = open_source()
    try:
        total = _left(source)
        give_back_memory()  # that of reading
        with _memory(settings) as memory:
            _first_pass(memory, source, settings, lambda: progress(total - _left(source), 2 * total))
            cpu = time.process_time() - cpu
            first = _Passed.of(memory.monitor)
        del memory
        gc.collect()  # it is part of cycles
        give_back_memory()
        source.seek({LOG: 0})
        with _memory(settings) as memory:
            memory.monitor.silence()  # the first pass has already warned
            predicted = first.errors[settings.learning.rating_learner]
            errors = _Errors(half=(predicted.ratings + predicted.unpredicted) // 2)
            names = _ranking_learners(memory.learners, settings, experts=rank_experts)
            ranking = Ranking(memory.learners, memory.users, names) if rank else None
            clicks = _second_pass(
                memory, source, settings, errors, ranking, lambda: progress(2 * total - _left(source), 2 * total)
            )
            _compare(first, _Passed.of(memory.monitor))
            wall = time.perf_counter() - began
            found = _evaluation(name, settings, memory, errors, clicks, ranking, repeats, cpu, wall)
    finally:
        source.close()
    if trial is None:
        return found
    return msgspec.structs.replace(found, renormalised=compare_with_retraining(settings, open_source, trial, progress))


def with_champion(name: str, settings: Settings) -> Settings:
    """`settings` with the learner as champion of its kind, and with the embedded log instead of Kafka."""
    kind = learner(name, seed=settings.learning.seed).kind
    champion = "rating_learner" if kind == "ratings" else "click_learner"
    learning = msgspec.structs.replace(settings.learning, **{champion: name})
    return msgspec.structs.replace(settings, learning=learning, kafka=KafkaSettings())


def _ranking_learners(learners: Learners, settings: Settings, *, experts: bool) -> list[str]:
    """The champion for clicks, then the shadows that learn from clicks, then perhaps the experts of all of them."""
    names = [settings.learning.click_learner, *settings.learning.shadow]
    if experts:
        names += [name for name in learners.by_name if name in learners.names_in_use(*settings.learning.shadow)]
    return [name for name in dict.fromkeys(names) if learners.by_name[name].kind == "clicks"]


@contextmanager
def _memory(settings: Settings) -> Iterator[Memory]:
    """An empty state in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="streamer-") as folder:
        store = RocksStore(Path(folder))
        try:
            yield Memory(learners(settings), settings, store)
        finally:
            store.close()


def _left(source: Source) -> int:
    return sum(count for partitions in source.lag().values() for count in partitions.values())


def _first_pass(memory: Memory, source: Source, settings: Settings, progress: Callable[[], None]) -> None:
    """Learn as the service does, up to the last commit."""
    interval_s = settings.state.commit_interval_s
    engine = Engine(
        source,
        memory,
        NullObserver(),
        max_records=settings.learning.max_records or EVALUATED_RECORDS,
        commit_interval_s=interval_s,
    )
    engine.stop.set()  # so that a full disk ends the engine instead of pausing it
    due = time.monotonic() + interval_s
    try:
        while engine.step(0.0):
            if time.monotonic() >= due:
                engine.commit()
                due = time.monotonic() + interval_s
            progress()
        engine.commit()
    except Exception:
        if engine.store_trouble:
            raise StoreUnavailable(engine.store_trouble) from None
        raise


def _second_pass(
    memory: Memory, source: Source, settings: Settings, errors: _Errors, ranking: Ranking | None,
    progress: Callable[[], None],
) -> int:  # fmt: skip
    """The same steps, with a ranking before each click and errors by group; return the number of clicks."""
    learn = memory.learners.learn if ranking is None else ranking.learn
    clicks, due = 0, time.monotonic() + settings.state.commit_interval_s
    memory.monitor.regret.watching = True
    while records := source.poll(settings.learning.max_records or EVALUATED_RECORDS, 0.0):
        for part, batch in memory.encoder.encode(records, memory.commit):
            predictions = learn(batch)
            memory.monitor.observe(batch, predictions)
            memory.ledger.advance(part)
            errors.observe(batch, predictions[settings.learning.rating_learner], memory.users.ids)
            clicks += int(np.count_nonzero(batch.clicks > 0))
        if time.monotonic() >= due:
            memory.commit()
            due = time.monotonic() + settings.state.commit_interval_s
        progress()
    return clicks


@dataclass
class _Passed:
    """What a pass gave. It does not refer to the users, so that those of the first pass are gone before the second begins."""

    events: Mapping[str, Mapping[str, int]]  # topic -> outcome -> number
    errors: Mapping[str, Errors]  # by learner

    @classmethod
    def of(cls, monitor: Monitor) -> "_Passed":
        return cls(monitor.events, monitor.errors)


def _compare(first: _Passed, second: _Passed) -> None:
    """Raises StreamerError unless both passes gave the same counts and the same errors bit for bit."""
    passes = [
        (one.events, {name: (errors.ratings, errors.squared) for name, errors in one.errors.items()})
        for one in (first, second)
    ]
    if passes[0] != passes[1]:
        raise StreamerError(
            f"two passes over the same events gave different errors: {passes[0]} and {passes[1]}; a learner's predictions depend "
            "on more than the events before, so its figures cannot be trusted: run streamer.checks.learners on it"
        )


def _evaluation(
    name: str, settings: Settings, memory: Memory, errors: _Errors, clicks: int, ranking: Ranking | None,
    repeats: Repeats, cpu: float, wall: float,
) -> Evaluation:  # fmt: skip
    queries = Queries.of(ranking, repeats) if ranking else None
    ranked = {one: queries.figures(ranks) for one, ranks in ranking.by_learner.items()} if ranking and queries else {}
    champion = ranked.get(settings.learning.click_learner)
    learning, counts = settings.learning, memory.monitor.events
    of_all, regret = memory.monitor.errors[learning.rating_learner], memory.monitor.regret
    rater = memory.learners.by_name[learning.rating_learner]
    stated = rater.stated if isinstance(rater, Stating) and rater.stated.ratings else None
    events = sum(counts[topic][LEARNED] for topic in (RATINGS, CLICKS))
    return Evaluation(
        learner=name,
        rating_learner=learning.rating_learner,
        click_learner=learning.click_learner,
        seed=learning.seed,
        events=events,
        ratings=counts[RATINGS][LEARNED] - sum(counts[RATINGS][what] for what in RESTATED),
        clicks=clicks,
        queries=int(queries.asked.sum()) if queries else None,
        repeats=("allow" if queries.allowed else "exclude") if queries else None,
        repeated_share=queries.repeated_share if queries else None,
        dead_letters=sum(memory.monitor.dead_letters.values()),
        duplicates=sum(outcomes[DUPLICATE] for outcomes in counts.values()),
        replaced=counts[RATINGS][CHANGED],
        repeated=counts[RATINGS][SAID_BEFORE] + counts[CLICKS][SAID_BEFORE],
        retracted=counts[RATINGS][WITHDRAWN],
        not_rated=counts[RATINGS][NOT_RATED],
        refed=memory.monitor.repeated_input.events,
        unpredicted=of_all.unpredicted,
        users=memory.users.count,
        items=len(memory.items),
        rmse=of_all.rmse() if of_all.ratings else None,
        rmse_by_learner={one: found.rmse() if found.ratings else None for one, found in memory.monitor.errors.items()},
        rmse_tenths=tenths(np.concatenate(errors.squares)) if errors.squares else (),
        rmse_last_half=errors.last_half.rmse,
        rmse_new_users=errors.new_users.rmse,
        rmse_new_items=errors.new_items.rmse,
        coverage_80=stated.coverage_80 if stated else None,
        log_score_gain=stated.log_score_gain if stated else None,
        oracle_rmse=_known(regret.oracle_rmse()),
        regret=_known(regret.above_oracle(learning.rating_learner)),
        hit_rate_10=champion.hit_rate_10 if champion else None,
        hit_rate_20=champion.hit_rate_20 if champion else None,
        ndcg_20=champion.ndcg_20 if champion else None,
        mrr_20=champion.mrr_20 if champion else None,
        sessions=queries.sessions if queries else None,
        session_queries=int(queries.in_session.sum()) if queries else None,
        session_hit_rate_20=champion.session_hit_rate_20 if champion else None,
        session_mrr_20=champion.session_mrr_20 if champion else None,
        click_learners=ranked,
        events_per_second=events / cpu if events else None,
        ranking_seconds=ranking.seconds if ranking and clicks else None,
        wall_seconds=wall,
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
