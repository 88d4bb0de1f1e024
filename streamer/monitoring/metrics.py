"""What Prometheus sees: the monitor's counts, live readings, and histograms of time, as one page of text.

The only file that knows prometheus_client. Nothing is global: one `Metrics` a process, with a registry of its own.
Every label value that is known is there from the start, so that a rate over it is 0 and not absent.
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

from streamer.core.answers import RERANKING_OUTCOMES, ArchiveStatus
from streamer.core.arrays import F64
from streamer.core.errors import Reason
from streamer.monitoring.drift import DETECTOR
from streamer.monitoring.monitor import WINDOWS, Monitor
from streamer.monitoring.stability import Reading
from streamer.storage.generations import GenerationRecord

# Upper edges, in seconds. A commit is a disk write; an event waits for a micro-batch; most requests take under 2 ms.
COMMIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
EVENT_TO_ANSWER = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0)
RERANK = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0)
REQUEST = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0)

# Outcomes of a request, in Connect's spelling; a rarer one appears with its first request.
CODES = ("ok", "invalid_argument", "deadline_exceeded", "unauthenticated", "unavailable", "internal")
OTHER_METHOD = "other"  # label of every method that is not ours, so that a client cannot make labels up


STEPS = ("cut", "read", "train", "write", "catch up", "gate", "swap", "watch")  # as the seconds of a life name them


@dataclass(frozen=True, slots=True)
class GenerationReadings:
    """Of one moment."""

    age_s: float  # of the live one, since its cut; g0 was never cut: since its state was made
    events: int  # learned since then
    step: str  # one of STEPS, under way; empty for none
    outcomes: Mapping[str, int]  # of renormalisations, since the process started
    shown: (
        GenerationRecord | None
    )  # the one under way, once it is at the gate; before that the last; None: there was none
    every_s: float | None  # the schedule
    min_events: int  # fewer since the cut, and the schedule passes by


@dataclass(frozen=True, slots=True)
class Readings:
    """What is read at each scrape, from the thread that answers it: cheap, never blocking. All of one generation."""

    generation: str  # of the one that answers
    monitor: Monitor  # of it
    lag: Callable[[], Mapping[str, Mapping[int, int]]]  # events not yet read, by topic and partition
    log_bytes: Callable[[], int]  # size of the embedded log; 0 with Kafka
    archive: Callable[[], ArchiveStatus]
    users_cached: Callable[[], int]
    user_evictions: Callable[[], int]  # since the generation was opened
    items: Callable[[], int]  # item rows in memory
    ingestion_up: Callable[[], bool]  # whether events can be read and learned now
    refused: Callable[[], Mapping[str, int]]  # steps, by learner
    norms: Callable[[], Iterable[Reading]]  # about 1 ms a learner, like the widths
    widths: Callable[[], Iterable[Reading]]
    champions: Callable[[], Iterable[tuple[str, str, bool]]]  # of each learner: its name, kind, and whether it answers
    standing: Callable[[], GenerationReadings]


class Histogram:
    """Counts of seconds by upper edge; safe from any thread."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges: F64 = np.asarray(edges, dtype=np.float64)
        self._names = [*(str(edge) for edge in edges), "+Inf"]
        self._counts = np.zeros(len(edges) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, seconds: F64 | float) -> None:
        """Take up one time or many, (n,); below 0, which two clocks can give, counts as 0. Cost: 0.03 us a time."""
        times = np.maximum(np.atleast_1d(np.asarray(seconds, dtype=np.float64)), 0.0)
        counts = np.bincount(np.searchsorted(self._edges, times, side="left"), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(times.sum())

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper edge, and the sum of all times."""
        with self._lock:
            return list(zip(self._names, np.cumsum(self._counts).tolist(), strict=True)), self._sum


class Metrics:
    """Collects what `/metrics` shows."""

    def __init__(
        self, readings: Callable[[], Readings], methods: Sequence[str], version: str, reranker: str = ""
    ) -> None:
        """`readings`: of who answers now; `methods` are the names of the endpoint's methods, as `request` will be given them.

        `reranker` is the learner that re-ranks, if one does.
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
        self._rejected = dict.fromkeys(Reason, 0)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def commit(self, seconds: float) -> None:
        """One commit of the state took `seconds`."""
        self._commit.observe(seconds)

    def event_to_answer(self, seconds: F64) -> None:
        """Of each event of a batch, (n,): the time from its append until answers showed it."""
        self._event_to_answer.observe(seconds)

    def rejected(self, reason: Reason) -> None:
        """Publish refused one event; from the endpoint's one thread."""
        self._rejected[reason] += 1

    def request(self, method: str, code: str, seconds: float) -> None:
        """One request was answered with `code` (Connect's names, `ok` for success) after `seconds`."""
        key = (method if method in self._methods else OTHER_METHOD, code)
        histogram = self._requests.get(key) or self._requests.setdefault(key, Histogram(REQUEST))
        histogram.observe(seconds)

    def reranking(self, learner: str, outcome: str, seconds: float) -> None:
        """An answer waited `seconds` for a re-ranker; `outcome` is one of rerank.OUTCOMES."""
        self._rerankings[learner, outcome].observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """The page and its content type, in Prometheus' text format."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """All but `process_*`, for the registry."""
        readings = self._readings()
        yield from _learning(readings)
        yield from self._ingestion(readings)
        yield from _stability(readings)
        yield from _renormalisation(readings.standing(), readings.generation)
        yield _histogram("streamer_commit_seconds", "Time a commit of the state takes.", {(): self._commit})
        yield _histogram(
            "streamer_event_to_answer_seconds",
            "Time from an event's append until answers show it.",
            {(): self._event_to_answer},
        )
        yield _histogram(
            "streamer_request_seconds",
            "Time a request takes, by method and outcome.",
            dict(self._requests),  # a copy: another thread may add to it
            ("method", "code"),
        )
        yield _histogram(
            "streamer_rerank_seconds",
            "Time an answer waits for the re-ranker, by what came of it.",
            self._rerankings,
            ("learner", "outcome"),
        )
        yield _one(Gauge("streamer_build_info", "The version that runs.", labels=["version"]), 1, self._version)

    def _ingestion(self, readings: Readings) -> Iterator[Metric]:
        events = Counter("streamer_events", "Events by what became of them.", labels=["topic", "outcome"])
        for topic, outcomes in readings.monitor.events.items():
            for outcome, count in outcomes.items():
                _one(events, count, topic, outcome)
        letters = Counter("streamer_dead_letters", "Events that could not be learned from.", labels=["reason"])
        for reason, count in readings.monitor.dead_letters.items():
            _one(letters, count, reason)
        refused = Counter("streamer_publish_rejected", "Events that Publish refused.", labels=["reason"])
        for reason, count in self._rejected.items():
            _one(refused, count, reason)
        yield refused
        again = readings.monitor.refeeding.events
        yield Counter("streamer_refed_events", "Events that had come before, by their users' histories.", again)
        lag = Gauge("streamer_consumer_lag_events", "Events not yet read.", labels=["topic", "partition"])
        for topic, partitions in readings.lag().items():
            for partition, behind in partitions.items():
                _one(lag, behind, topic, str(partition))
        yield from (events, letters, lag)
        yield Gauge("streamer_log_bytes", "Size of the embedded event log.", readings.log_bytes())
        archive = readings.archive()
        yield Gauge("streamer_archive_bytes", "Size of the archive.", archive.bytes)
        yield Gauge("streamer_archive_events", "Records in the archive.", archive.records)
        yield Gauge("streamer_archive_lag_events", "Records not yet archived.", archive.behind)
        yield Gauge("streamer_users_cached", "Users in memory.", readings.users_cached())
        evictions = Counter("streamer_user_evictions", "Users dropped from memory.", labels=["generation"])
        yield _one(evictions, readings.user_evictions(), readings.generation)
        yield Gauge("streamer_items", "Items in memory.", readings.items())
        yield Gauge("streamer_ingestion_up", "1 while events can be learned.", float(readings.ingestion_up()))


def _learning(readings: Readings) -> Iterator[Metric]:
    """Counters of what learners did have the generation as a label: another's may be lower, and nothing was reset.

    Counts of events have none: they are a function of the stream, the same in both at a swap.
    """
    rolling = Gauge("streamer_rolling_rmse", "Prequential RMSE of the last ratings.", labels=["learner", "window"])
    of = ["learner", "generation"]
    squared = Counter("streamer_squared_error", "Sum of squared errors of all ratings.", labels=of)
    predicted = Counter("streamer_ratings_predicted", "Ratings predicted before learned.", labels=of)
    missed = Counter("streamer_ratings_unpredicted", "Ratings without a finite prediction.", labels=of)
    drifts = Counter("streamer_drift_detections", "Drifts in the squared error.", labels=[*of, "detector"])
    for name, errors in readings.monitor.errors.items():
        for window in WINDOWS:
            _one(rolling, errors.rmse(window), name, str(window))
        _one(squared, errors.squared, name, readings.generation)
        _one(predicted, errors.ratings, name, readings.generation)
        _one(missed, errors.unpredicted, name, readings.generation)
        _one(drifts, errors.drift.detections, name, readings.generation, DETECTOR)
    champions = Gauge("streamer_champion", "1 for the learner that answers.", labels=["learner", "kind"])
    for name, kind, answers in readings.champions():
        _one(champions, float(answers), name, kind)
    yield from (rolling, squared, predicted, missed, drifts, champions)
    yield from _regret(readings.monitor)


def _regret(monitor: Monitor) -> Iterator[Metric]:
    """Without series until a simulated rating was learned."""
    oracle = Gauge("streamer_oracle_rmse", "Lowest RMSE possible on simulated ratings.", labels=["window"])
    regret = Gauge("streamer_regret", "RMSE above the oracle's, simulated ratings.", labels=["learner", "window"])
    found = monitor.regret
    for window in WINDOWS if found.ratings else ():
        _one(oracle, found.oracle_rmse(window), str(window))
        for name in monitor.errors:
            _one(regret, found.of(name, window), name, str(window))
    yield from (oracle, regret)


def _stability(readings: Readings) -> Iterator[Metric]:
    refused = Counter("streamer_steps_refused", "Steps refused as not finite.", labels=["learner", "generation"])
    for name, count in readings.refused().items():
        _one(refused, count, name, readings.generation)
    norms = Gauge("streamer_row_norm", "Lengths of the rows in memory.", labels=["learner", "side", "at"])
    for norm in readings.norms():
        _one(norms, norm.value, norm.learner, norm.side, norm.of)
    widths = Gauge("streamer_posterior_width", "Mean doubt of beliefs.", labels=["learner", "side", "of"])
    for width in readings.widths():
        _one(widths, width.value, width.learner, width.side, width.of)
    yield from (refused, norms, widths)


def _renormalisation(found: GenerationReadings, generation: str) -> Iterator[Metric]:
    """Without series of steps, errors and churn until there was a renormalisation."""
    yield _one(Gauge("streamer_generation_info", "The generation that answers.", labels=["generation"]), 1, generation)
    yield Gauge("streamer_generation_age_seconds", "Time since the cut of the one that answers.", found.age_s)
    yield Gauge("streamer_generation_events", "Events learned since the cut of the one that answers.", found.events)
    yield Gauge("streamer_renormalise_every_seconds", "The schedule of retrainings.", found.every_s)  # absent for none
    yield Gauge("streamer_renormalise_min_events", "Events that a scheduled retraining waits for.", found.min_events)
    outcomes = Counter("streamer_renormalisations", "Retrainings by what became of them.", labels=["outcome"])
    for outcome, count in found.outcomes.items():
        _one(outcomes, count, _label(outcome))
    stages = Gauge("streamer_renormalisation_stage", "1 for the stage under way.", labels=["stage"])
    for step in STEPS:
        _one(stages, float(step == found.step), _label(step))
    yield from (outcomes, stages)
    seconds = Gauge("streamer_renormalisation_step_seconds", "Time each step of the last one took.", labels=["step"])
    rmse = Gauge("streamer_renormalisation_rmse", "RMSE on the same ratings.", labels=["learner", "at", "of"])
    churn = Gauge("streamer_renormalisation_churn", "What the last one changed.", labels=["learner", "measure"])
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
