"""One competitor on one stream: what it predicted or ranked before it learned, and the CPU that it took.

Peers are timed in memory, learning and predicting alone, over arrays that are there already. Ours are timed in two ways:
through `streamer evaluate`, so with the file read, events decoded, everything that serves learned (the learner of the
other kind and popularity too) and the state committed to disk; and in memory, as peers are.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Literal

import msgspec
import numpy as np

from benchmarks import figures
from benchmarks.figures import Clicks, Ratings
from benchmarks.peers import missing, peer
from benchmarks.protocols import ClickPeer, OnProgress, RatingPeer
from benchmarks.stream import Events, batches, memory, read
from streamer.consumers.files import FileSource
from streamer.core.arrays import F64
from streamer.core.batch import RATING
from streamer.core.errors import StreamerError
from streamer.core.garbage_collection import collect_seldom
from streamer.core.protocols import Kind
from streamer.core.settings import Settings
from streamer.models import learner
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY
from streamer.stream.learners import Learners
from streamer.study.evaluate import evaluate
from streamer.study.ranking import Ranking, rank

Progress = Callable[[int, int], None]
SEEN_EVENTS = 2000  # between two looks at how far it is


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A competitor's row of the table; of its kind's figures, those that it has."""

    name: str
    side: Literal["ours", "peer"]
    kind: Kind
    variant: str  # "default" or "tuned"; ours run as they are
    parameters: dict[str, Any]
    package: str | None = None
    skipped: str | None = None  # why it did not run
    ratings: Ratings | None = None
    clicks: Clicks | None = None
    events_per_second: float | None = None  # of CPU in memory: predicting and learning, without ranking
    oracle_rmse: float | None = None  # in a simulated world: the least there can be
    evaluate_events_per_second: float | None = None  # of CPU through `streamer evaluate`


def nobody_watches(done: int, of: int) -> None:
    """No progress is shown."""


def predict(events: Events, made: RatingPeer, progress: Progress = nobody_watches) -> tuple[F64, float]:
    """What was predicted before each rating was learned, (ratings,), and the CPU seconds it took."""
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


def ranked(events: Events, made: ClickPeer, progress: Progress = nobody_watches) -> tuple[F64, float]:
    """The rank of each click just before it is learned, as streamer.study.ranking has it, and the CPU seconds of learning."""
    chosen = np.flatnonzero(events.clicks > 0)
    spots: dict[int, int] = {}  # item -> its number among those clicked
    clicked: list[list[int]] = [[] for _ in range(events.user_count)]
    ranks, spent = [], 0.0
    for n, (user, item) in enumerate(zip(events.users[chosen].tolist(), events.items[chosen].tolist(), strict=True)):
        spot, own = spots.get(item), clicked[user]
        if spot is None:
            spot = spots.setdefault(item, len(spots))
            own.append(spot)
            ranks.append(np.inf)
        elif spot not in own:
            ranks.append(rank(made.score(user, len(spots)), spot, np.array(own, dtype=np.int32)))
            own.append(spot)
        began = process_time()
        made.learn(user, spot)
        spent += process_time() - began
        if n % SEEN_EVENTS == 0:
            progress(n, len(chosen))
    return np.array(ranks), spent


def run_peer(name: str, variant: str, events: Events, seed: int, progress: Progress = nobody_watches) -> Outcome:
    """A peer with its library's defaults or with the settings that were found best."""
    found = peer(name)
    parameters = found.tuned if variant == "tuned" else found.Settings()
    return run_settings(name, variant, parameters, events, seed, progress)


def run_settings(
    name: str, variant: str, parameters: msgspec.Struct, events: Events, seed: int, progress: Progress = nobody_watches
) -> Outcome:
    """A peer with these settings."""
    found = peer(name)
    begun = Outcome(
        name=name, side="peer", kind=found.kind, variant=variant, parameters=msgspec.to_builtins(parameters),
        package=found.package, skipped=missing(name),
    )  # fmt: skip
    if begun.skipped:
        return begun
    count = int(np.count_nonzero(events.rated if found.kind == "ratings" else events.clicks > 0))
    made = found(parameters, OnProgress(events.categories if found.kind == "ratings" else (), count, seed))
    replaced = msgspec.structs.replace
    if found.kind == "ratings":
        predicted, seconds = predict(events, made, progress)
        return replaced(begun, ratings=figures.ratings(events, predicted), events_per_second=count / seconds)
    ranks, seconds = ranked(events, made, progress)
    return replaced(begun, clicks=figures.clicks(ranks), events_per_second=count / seconds)


def run_ours(name: str, path: Path, settings: Settings, progress: Progress = nobody_watches) -> Outcome:
    """One of our learners, its parameters as they are; raises StreamerError when it is not what `evaluate` measured."""
    collect_seldom()
    kind = learner(name, seed=settings.learning.seed).kind
    champion = "rating_learner" if kind == "ratings" else "click_learner"
    learning = msgspec.structs.replace(settings.learning, **{champion: name})
    settings = msgspec.structs.replace(settings, learning=learning)
    seed = learning.seed
    # Without a learner of clicks that asks others: what it asks would be booked to whoever learns first.
    counting = msgspec.structs.replace(learning, click_learner=POPULARITY) if kind == "ratings" else learning
    alone = msgspec.structs.replace(settings, learning=counting)
    evaluated = evaluate(name, settings, lambda: FileSource(path, seed), rank=False, progress=lambda done, of: None)
    with memory(learners(settings), settings) as parts:
        ranking = Ranking(parts.learners, parts.users) if kind == "clicks" else None
        predicted, done = [], 0
        for batch in batches(parts, path, settings):
            said = parts.learners.learn(batch) if ranking is None else ranking.learn(batch)
            predicted.append(said[learning.rating_learner])
            done += len(batch)
            progress(done, evaluated.events)
        parameters = msgspec.to_builtins(parts.learners.by_name[name].parameters)
    begun = Outcome(
        name=name, side="ours", kind=kind, variant="default", parameters=parameters,
        events_per_second=median(in_memory(learners(alone), name, path, alone) for _ in range(3)),
        evaluate_events_per_second=evaluated.events_per_second, oracle_rmse=evaluated.oracle_rmse,
    )  # fmt: skip
    if ranking is not None:
        return msgspec.structs.replace(begun, clicks=figures.clicks(np.array(ranking.ranks)))
    events = read(path, settings)
    measured = figures.ratings(events, np.concatenate(predicted)[events.rated].astype(np.float64))
    if abs(measured.rmse - (evaluated.rmse or 0.0)) > 1e-9:
        raise StreamerError(f"{name}: evaluate came to an RMSE of {evaluated.rmse}, the benchmark to {measured.rmse}")
    return msgspec.structs.replace(begun, ratings=measured)


def in_memory(made: Learners, name: str, path: Path, settings: Settings) -> float:
    """Events of its kind a CPU second of the learner `name` alone, with its experts where it has some, on encoded micro-batches."""
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
