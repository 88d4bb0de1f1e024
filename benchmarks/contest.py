"""Runs one competitor on one stream: its predictions or ranks before learning each event, and its CPU time.

Peers are timed in memory, learning and predicting alone, over arrays that already exist. Our learners are timed in two ways:
through `streamer evaluate`, which includes reading the file, decoding, all learners of a service (also the learner of the
other kind and popularity) and committing the state to disk; and in memory, like peers.
"""

from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Literal

import msgspec
import numpy as np

from benchmarks import figures
from benchmarks.clicks import rank_clicks
from benchmarks.figures import Clicks, Ratings
from benchmarks.peers import best, missing, peer
from benchmarks.progress import SEEN_EVENTS, Progress, no_progress
from benchmarks.protocols import PeerContext, RatingPeer
from benchmarks.stream import Events, batches, memory, read
from streamer.consumers.files import FileSource
from streamer.core.arrays import F64
from streamer.core.batch import RATING
from streamer.core.errors import StreamerError
from streamer.core.garbage_collection import collect_seldom, leave_living_objects_alone
from streamer.core.protocols import Kind
from streamer.core.settings import Settings
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY
from streamer.stream.learners import Learners
from streamer.study.evaluate import evaluate


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A competitor's row of the table, with the figures of its kind."""

    name: str
    side: Literal["ours", "peer"]
    kind: Kind
    variant: str  # "default" or "tuned"; our learners always run with their defaults
    parameters: dict[str, Any]
    package: str | None = None
    skipped: str | None = None  # the reason why it did not run
    ratings: Ratings | None = None
    clicks: Clicks | None = None
    events_per_second: float | None = None  # per second of CPU in memory: predicting and learning, without ranking
    oracle_rmse: float | None = None  # in a simulated world, the least possible
    evaluate_events_per_second: float | None = None  # per second of CPU through `streamer evaluate`


def predict(events: Events, made: RatingPeer, progress: Progress = no_progress) -> tuple[F64, float]:
    """The predictions before learning each rating, (ratings,), and the CPU seconds they took."""
    rated = events.rated
    rows = list(
        zip(events.users[rated].tolist(), events.items[rated].tolist(), events.values[rated].tolist(), strict=True)
    )
    predicted, spent, step = np.empty(len(rows)), 0.0, made.predict_then_learn
    for start in range(0, len(rows), SEEN_EVENTS):
        began = process_time()
        for k, (user, item, value) in enumerate(rows[start : start + SEEN_EVENTS], start):
            predicted[k] = step(user, item, value)
        spent += process_time() - began
        progress(min(start + SEEN_EVENTS, len(rows)), len(rows))
    return predicted, spent


def run_peer(
    name: str, variant: str, events: Events, seed: int, progress: Progress = no_progress, stream: str = ""
) -> Outcome:
    """Run a peer with its defaults, or with the best settings found: on the stream of this name, or else on ml-latest-small."""
    found = peer(name)
    parameters = (best(name, stream) or found.tuned) if variant == "tuned" else found.Settings()
    return run_settings(name, variant, parameters, events, seed, progress)


def run_settings(
    name: str, variant: str, parameters: msgspec.Struct, events: Events, seed: int, progress: Progress = no_progress
) -> Outcome:
    """Run a peer with these settings."""
    found = peer(name)
    begun = Outcome(
        name=name, side="peer", kind=found.kind, variant=variant, parameters=msgspec.to_builtins(parameters),
        package=found.package, skipped=missing(name),
    )  # fmt: skip
    if begun.skipped:
        return begun
    count = int(np.count_nonzero(events.rated if found.kind == "ratings" else events.clicks > 0))
    made = found(parameters, PeerContext(events.categories if found.kind == "ratings" else (), count, seed))
    replaced = msgspec.structs.replace
    if found.kind == "ratings":
        predicted, seconds = predict(events, made, progress)
        return replaced(begun, ratings=figures.ratings(events, predicted), events_per_second=count / seconds)
    queries, ranks, seconds = rank_clicks(events, made, progress)
    return replaced(begun, clicks=figures.clicks(queries, ranks), events_per_second=count / seconds)


def run_ours(name: str, path: Path, settings: Settings, progress: Progress = no_progress) -> Outcome:
    """Run one of our learners of ratings with its default parameters; raises StreamerError if the figures are not those of `evaluate`."""
    collect_seldom()
    leave_living_objects_alone()
    learning = msgspec.structs.replace(settings.learning, rating_learner=name)
    settings = msgspec.structs.replace(settings, learning=learning)
    # popularity learns the clicks here: the probes of a composed learner of clicks would count as time of other learners
    alone = msgspec.structs.replace(settings, learning=msgspec.structs.replace(learning, click_learner=POPULARITY))
    evaluated = evaluate(
        name, settings, lambda: FileSource(path, learning.seed), rank=False, progress=lambda done, of: None
    )
    with memory(learners(settings), settings) as parts:
        predicted, done = [], 0
        for batch in batches(parts, path, settings):
            predicted.append(parts.learners.learn(batch)[name])
            done += len(batch)
            progress(done, evaluated.events)
        parameters = msgspec.to_builtins(parts.learners.by_name[name].parameters)
    begun = Outcome(
        name=name, side="ours", kind="ratings", variant="default", parameters=parameters,
        events_per_second=median(in_memory(learners(alone), name, path, alone) for _ in range(3)),
        evaluate_events_per_second=evaluated.events_per_second, oracle_rmse=evaluated.oracle_rmse,
    )  # fmt: skip
    events = read(path, settings)
    measured = figures.ratings(events, np.concatenate(predicted)[events.rated].astype(np.float64))
    if abs(measured.rmse - (evaluated.rmse or 0.0)) > 1e-9:
        raise StreamerError(f"{name}: evaluate gives an RMSE of {evaluated.rmse}, the benchmark one of {measured.rmse}")
    return msgspec.structs.replace(begun, ratings=measured)


def in_memory(made: Learners, name: str, path: Path, settings: Settings) -> float:
    """Events of its kind per CPU second of the learner `name` alone, with its experts if it has any, on encoded micro-batches."""
    counted, of_clicks = {name, *made.experts.get(name, {}).values()}, made.by_name[name].kind == "clicks"
    spent, events = 0.0, 0
    with memory(made, settings) as parts:
        for batch in batches(parts, path, settings):
            if not len(batch):
                continue
            began = process_time()
            for learned, _ in made.opinions(batch):
                now = process_time()
                spent += now - began if learned in counted else 0.0
                began = now
            events += int(np.count_nonzero(batch.clicks > 0 if of_clicks else batch.kinds == RATING))
    return events / spent
