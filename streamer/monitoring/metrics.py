"""The page that Prometheus scrapes: the monitor's counts, live readings and histograms of times, as text.

Only this file imports prometheus_client. Nothing is global: a process has one `Metrics` with a registry of its own.
Every known label value has a series from the start, so that a rate over it is 0 and not absent.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from streamer.core.answers import RERANKING_OUTCOMES, ArchiveStatus, Refusal
from streamer.core.arrays import F64
from streamer.core.errors import Reason
from streamer.monitoring.drift import DETECTOR
from streamer.monitoring.monitor import RESTATED, WINDOWS, Monitor
from streamer.monitoring.scale import SCALE
from streamer.monitoring.stability import Reading
from streamer.storage.generations import GenerationRecord

# Upper bounds of buckets, in seconds. A commit is a disk write; an event waits for a micro-batch; most requests take under 2 ms.
COMMIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
EVENT_TO_ANSWER = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
RERANK = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0)
REQUEST = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0)

# Outcomes of a request, in Connect's spelling; others appear with their first request.
CODES = ("ok", "invalid_argument", "deadline_exceeded", "unauthenticated", "unavailable", "internal")
OTHER_METHOD = "other"  # the label of every unknown method, so that clients cannot create new labels


STEPS = ("cut", "read", "train", "write", "catch up", "gate", "swap", "watch")  # the keys of GenerationRecord.seconds


@dataclass(frozen=True, slots=True)
class GenerationReadings:
    """The generations at one moment."""

    age_s: float  # time since the cut of the live generation; for g0, which was never cut, since its state was made
    events: int  # learned since that cut
    step: str  # the one of STEPS that is under way; empty for none
    outcomes: Mapping[str, int]  # finished renormalisations by outcome, since the process started
    # The renormalisation whose numbers are shown: the current one from its gate on, else the last; None: there was none
    shown: GenerationRecord | None
    every_s: float | None  # the schedule; None: there is none
    min_events: int  # the schedule skips a retraining when fewer events were learned since the cut


@dataclass(frozen=True, slots=True)
class Readings:
    """What is read at each scrape, in the thread that answers it: cheap and never blocking. All readings are of one generation."""

    generation: str  # the id of the live one
    monitor: Monitor  # the live generation's
    lag: Callable[[], Mapping[str, Mapping[int, int]]]  # events not yet read, by topic and partition
    log_bytes: Callable[[], int]  # size of the embedded log; 0 with Kafka
    archive: Callable[[], ArchiveStatus]
    users_cached: Callable[[], int]
    users_forgotten: Callable[[], int]  # for their age, since the generation was opened
    user_evictions: Callable[[], int]  # since the generation was opened
    items: Callable[[], int]  # item rows in memory
    ingestion_up: Callable[[], bool]  # whether events can be read and learned now
    damaged_files: Callable[[], Mapping[str, int]]  # missing or damaged files, as far as known, by part
    refused: Callable[[], Mapping[str, int]]  # refused steps by learner
    norms: Callable[[], Iterable[Reading]]  # about 1 ms a learner, like the widths
    widths: Callable[[], Iterable[Reading]]
    champions: Callable[[], Iterable[tuple[str, str, bool]]]  # each learner's name and kind, and whether it is champion
    generations: Callable[[], GenerationReadings]


class Histogram:
    """Counts of times by upper bound; safe from any thread."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges: F64 = np.asarray(edges, dtype=np.float64)
        self._names = [*(str(edge) for edge in edges), "+Inf"]
        self._counts = np.zeros(len(edges) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, seconds: F64 | float) -> None:
        """Add one time or many, (n,), in seconds; a negative one, as two clocks may give, counts as 0. Cost: 0.03 us a time."""
        times = np.maximum(np.atleast_1d(np.asarray(seconds, dtype=np.float64)), 0.0)
        counts = np.bincount(np.searchsorted(self._edges, times, side="left"), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(times.sum())

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum of all times."""
        with self._lock:
            return list(zip(self._names, np.cumsum(self._counts).tolist(), strict=True)), self._sum


class Metrics:
    """Collects the numbers that `/metrics` shows."""

    def __init__(
        self, readings: Callable[[], Readings], methods: Sequence[str], version: str, reranker: str = ""
    ) -> None:
        """`readings()` reads the live generation; `methods` are the endpoint's method names, as `request` gets them.

        `reranker`: the name of the learner that re-ranks; empty for none.
        """
        self._readings, self._version = readings, version
        self._commit, self._event_to_answer = Histogram(COMMIT), Histogram(EVENT_TO_ANSWER)
        self._requests: dict[tuple[str, ...], Histogram] = {
            (method, code): Histogram(REQUEST) for method in methods for code in CODES
        }
        self._methods = frozenset(methods)
        self._rerankings: dict[tuple[str, ...], Histogram] = {
            (reranker, outcome): Histogram(RERANK) for outcome in RERANKING_OUTCOMES if reranker
        }
        self._rejected, self._refused = dict.fromkeys(Reason, 0), dict.fromkeys(Refusal, 0)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def commit(self, seconds: float) -> None:
        """Add the time of one commit of the state."""
        self._commit.observe(seconds)

    def event_to_answer(self, seconds: F64) -> None:
        """Add the seconds from an event's append until answers included it, for each event of a batch, (n,)."""
        self._event_to_answer.observe(seconds)

    def rejected(self, reason: Reason) -> None:
        """Count one event that Publish refused. Only the endpoint's one thread calls this."""
        self._rejected[reason] += 1

    def refused(self, refusal: Refusal) -> None:
        """Count what the endpoint closed or refused. Only the endpoint's one thread calls this."""
        self._refused[refusal] += 1

    def request(self, method: str, code: str, seconds: float) -> None:
        """Add one request that was answered with `code` (Connect's names, `ok` for success) after `seconds`."""
        key = (method if method in self._methods else OTHER_METHOD, code)
        histogram = self._requests.get(key) or self._requests.setdefault(key, Histogram(REQUEST))
        histogram.observe(seconds)

    def reranking(self, learner: str, outcome: str, seconds: float) -> None:
        """Add one answer that waited `seconds` for a re-ranker; `outcome` is one of answers.RERANKING_OUTCOMES."""
        self._rerankings[learner, outcome].observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The page in Prometheus' text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """All metrics but `process_*`; the registry calls this at each scrape."""
        readings = self._readings()
        yield from _learning(readings)
        yield from self._ingestion(readings)
        yield from _stability(readings)
        yield from _renormalisation(readings.generations(), readings.generation)
        yield _histogram("streamer_commit_seconds", "Time that a commit of the state takes.", {(): self._commit})
        yield _histogram(
            "streamer_event_to_answer_seconds",
            "Time from the append of an event until answers include it.",
            {(): self._event_to_answer},
        )
        yield _histogram(
            "streamer_request_seconds",
            "Time that a request takes, by method and outcome.",
            dict(self._requests),  # a copy: another thread may add to it
            ("method", "code"),
        )
        refused = Counter("streamer_http_refused", "Connections closed and requests refused.", labels=["reason"])
        for refusal, count in self._refused.items():
            _one(refused, count, refusal)
        yield refused
        yield _histogram(
            "streamer_rerank_seconds",
            "Time that an answer waits for the re-ranker, by outcome.",
            self._rerankings,
            ("learner", "outcome"),
        )
        yield _one(Gauge("streamer_build_info", "Always 1; the running version.", labels=["version"]), 1, self._version)

    def _ingestion(self, readings: Readings) -> Iterator[Metric]:
        events = Counter("streamer_events", "Events read, by topic and outcome.", labels=["topic", "outcome"])
        restated = Counter(
            "streamer_restated_events", "Learned events on what their user had said before.", labels=["topic", "what"]
        )
        for topic, outcomes in readings.monitor.events.items():
            for outcome, count in outcomes.items():
                _one(restated if outcome in RESTATED else events, count, topic, outcome)
        letters = Counter("streamer_dead_letters", "Events that could not be learned, by reason.", labels=["reason"])
        for reason, count in readings.monitor.dead_letters.items():
            _one(letters, count, reason)
        refused = Counter("streamer_publish_rejected", "Events that Publish refused, by reason.", labels=["reason"])
        for reason, count in self._rejected.items():
            _one(refused, count, reason)
        yield refused
        repeated = readings.monitor.repeated_input.events
        yield Counter("streamer_refed_events", "Events that were already in their user's history.", repeated)
        unlikely = readings.monitor.unlikely_times.events
        kinds = Counter("streamer_unknown_kinds", "Clicks of kinds without a weight, by kind.", labels=["kind"])
        for kind, count in readings.monitor.unknown_kinds.events.items():
            _one(kinds, count, kind)
        yield kinds
        yield Counter("streamer_unlikely_times", "Events with a time before 1990 or in the future.", unlikely)
        scale, by = readings.monitor.scale, ["generation"]
        wild = Counter("streamer_wild_ratings", "Ratings outside the scale, learned as its nearest end.", labels=by)
        yield _one(wild, scale.wild, readings.generation)
        ends = Gauge("streamer_rating_scale", "The range of ratings, robust against wild ones.", labels=["end"])
        for end, value in (("low", scale.low), ("high", scale.high)) if scale.low <= scale.high else ():
            _one(ends, value, end)
        yield ends
        gap_s = readings.monitor.sessions.gap_s
        yield Gauge("streamer_session_gap_seconds", "The pause of a user after which a session begins.", gap_s)
        lag = Gauge("streamer_consumer_lag_events", "Events not yet read.", labels=["topic", "partition"])
        for topic, partitions in readings.lag().items():
            for partition, behind in partitions.items():
                _one(lag, behind, topic, str(partition))
        yield from (events, restated, letters, lag)
        yield Gauge("streamer_log_bytes", "Size of the embedded event log.", readings.log_bytes())
        archive = readings.archive()
        yield Gauge("streamer_archive_bytes", "Size of the archive on disk.", archive.bytes)
        yield Gauge("streamer_archive_events", "Records in the archive.", archive.records)
        yield Gauge("streamer_archive_lag_events", "Records not yet archived.", archive.behind)
        damaged = Gauge("streamer_damaged_files", "Files known to be missing or damaged.", labels=["part"])
        for part, count in readings.damaged_files().items():
            _one(damaged, count, part)
        yield damaged
        yield Gauge("streamer_users_cached", "Users held in memory.", readings.users_cached())
        evictions = Counter("streamer_user_evictions", "Users evicted from memory.", labels=["generation"])
        yield _one(evictions, readings.user_evictions(), readings.generation)
        forgotten = Counter(
            "streamer_users_forgotten_for_age", "Users forgotten (user_ttl_days).", labels=["generation"]
        )
        yield _one(forgotten, readings.users_forgotten(), readings.generation)
        yield Gauge("streamer_items", "Items held in memory.", readings.items())
        yield Gauge("streamer_ingestion_up", "1 while events can be read and learned.", float(readings.ingestion_up()))


def _learning(readings: Readings) -> Iterator[Metric]:
    """Counters of learners carry the generation as a label, because the counter of another generation may be lower.

    Counts of events carry none: they depend on the stream only, so both generations agree on them at a swap.
    """
    rolling = Gauge("streamer_rolling_rmse", "Prequential RMSE over the last ratings.", labels=["learner", "window"])
    by = ["learner", "generation"]
    squared = Counter("streamer_squared_error", "Sum of the squared errors of all ratings.", labels=by)
    predicted = Counter("streamer_ratings_predicted", "Ratings predicted before they were learned.", labels=by)
    missed = Counter("streamer_ratings_unpredicted", "Ratings without a finite prediction.", labels=by)
    drifts = Counter(
        "streamer_drift_detections", "Drifts of the squared errors, and changes of scale.", labels=[*by, "detector"]
    )
    for name, errors in readings.monitor.errors.items():
        for window in WINDOWS:
            _one(rolling, errors.rmse(window), name, str(window))
        _one(squared, errors.squared, name, readings.generation)
        _one(predicted, errors.ratings, name, readings.generation)
        _one(missed, errors.unpredicted, name, readings.generation)
        _one(drifts, errors.drift.detections, name, readings.generation, DETECTOR)
        _one(drifts, readings.monitor.scale.changes, name, readings.generation, SCALE)
    champions = Gauge("streamer_champion", "1 for the champion of its kind, else 0.", labels=["learner", "kind"])
    for name, kind, is_champion in readings.champions():
        _one(champions, float(is_champion), name, kind)
    yield from (rolling, squared, predicted, missed, drifts, champions)
    yield from _regret(readings.monitor)


def _regret(monitor: Monitor) -> Iterator[Metric]:
    """No series until a simulated rating is learned."""
    oracle = Gauge("streamer_oracle_rmse", "RMSE of an oracle on simulated ratings.", labels=["window"])
    regret = Gauge("streamer_regret", "RMSE above the oracle's on simulated ratings.", labels=["learner", "window"])
    found = monitor.regret
    for window in WINDOWS if found.ratings else ():
        _one(oracle, found.oracle_rmse(window), str(window))
        for name in monitor.errors:
            _one(regret, found.above_oracle(name, window), name, str(window))
    yield from (oracle, regret)


def _stability(readings: Readings) -> Iterator[Metric]:
    refused = Counter(
        "streamer_steps_refused", "Steps refused because a value was not finite.", labels=["learner", "generation"]
    )
    for name, count in readings.refused().items():
        _one(refused, count, name, readings.generation)
    norms = Gauge("streamer_row_norm", "Norms of the rows in memory, by quantile.", labels=["learner", "side", "at"])
    for norm in readings.norms():
        _one(norms, norm.value, norm.learner, norm.side, norm.of)
    widths = Gauge("streamer_posterior_width", "Mean posterior standard deviation.", labels=["learner", "side", "of"])
    for width in readings.widths():
        _one(widths, width.value, width.learner, width.side, width.of)
    yield from (refused, norms, widths)


def _renormalisation(found: GenerationReadings, generation: str) -> Iterator[Metric]:
    """No series of steps, errors and churn before the first renormalisation."""
    yield _one(
        Gauge("streamer_generation_info", "Always 1; the live generation.", labels=["generation"]), 1, generation
    )
    yield Gauge("streamer_generation_age_seconds", "Time since the cut of the live generation.", found.age_s)
    yield Gauge("streamer_generation_events", "Events learned since the cut of the live generation.", found.events)
    every = "Time between scheduled renormalisations."
    yield Gauge("streamer_renormalise_every_seconds", every, found.every_s)  # no sample without a schedule
    yield Gauge(
        "streamer_renormalise_min_events", "Events that a scheduled renormalisation requires.", found.min_events
    )
    outcomes = Counter("streamer_renormalisations", "Finished renormalisations, by outcome.", labels=["outcome"])
    for outcome, count in found.outcomes.items():
        _one(outcomes, count, _label(outcome))
    stages = Gauge("streamer_renormalisation_stage", "1 for the stage under way.", labels=["stage"])
    for step in STEPS:
        _one(stages, float(step == found.step), _label(step))
    yield from (outcomes, stages)
    seconds = Gauge(
        "streamer_renormalisation_step_seconds", "Time of each step of the last renormalisation.", labels=["step"]
    )
    rmse = Gauge(
        "streamer_renormalisation_rmse",
        "RMSE before and after the last renormalisation, on the same ratings.",
        labels=["learner", "at", "of"],
    )
    churn = Gauge(
        "streamer_renormalisation_churn", "What the last renormalisation changed.", labels=["learner", "measure"]
    )
    if found.shown is not None:
        for step, took_s in found.shown.seconds.items():
            _one(seconds, took_s, _label(step))
        for at, scores in (("gate", found.shown.scores), ("watch", found.shown.watched)):
            for score in scores:
                _one(rmse, score.before_rmse, score.learner, at, "before")
                _one(rmse, score.after_rmse, score.learner, at, "after")
        for name, value in found.shown.churn.items():
            learner, _, measure = name.rpartition(" ")
            _one(churn, value, learner, measure)
    yield from (seconds, rmse, churn)


def _label(words: str) -> str:
    return words.replace(" ", "_")


def _one(family: Counter | Gauge, value: float, *labels: str) -> Metric:
    family.add_metric(labels, value)
    return family


def _histogram(
    name: str, text: str, series: Mapping[tuple[str, ...], Histogram], labels: Sequence[str] = ()
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in series.items():
        buckets, total = histogram.read()
        family.add_metric(values, buckets, total)
    return family
