"""A small data directory with all parts (log, archive, a first and a live second generation), and a look at one that may be damaged."""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from learning import settings

from streamer.app import App
from streamer.core.errors import StreamerError
from streamer.core.events import Click, Event, ItemUpdate, Rating, message
from streamer.integrity import deep_checks
from streamer.renormalise import manifest
from streamer.renormalise.training import RefittedTables
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.state import RocksStore

DEADLINE_S = 60.0
LEARNERS = {"rating_learner": "bias", "click_learner": "popularity"}
USERS, ITEMS = [f"u{n}" for n in range(7)], [f"i{n}" for n in range(11)]


def some_events(count: int) -> list[Event]:
    """Films, ratings and clicks."""
    found: list[Event] = [ItemUpdate(f"i{n}", f"Item {n}", ("Drama",)) for n in range(11)]
    for n in range(count):
        user, item = USERS[n % 7], f"i{n * n % 11}"
        found.append(Click(user, item, "cart") if n % 3 == 0 else Rating(user, item, 1.0 + n % 5, None, f"e{n}"))
    return found


def opened(folder: Path) -> App:
    """The application on a data directory; what is not asked for does not run by itself."""
    return App(settings(data=str(folder), archive_interval_s=0.05, **LEARNERS))


def until(done: Callable[[], object]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.002)


def make(whole: Path, aside: Path) -> None:
    """Learn some events into g0, make its copy g1 live, learn more; `whole` is as a kill leaves it, with the newest in write-ahead logs."""
    folder = aside
    app = opened(folder)
    app.start()
    sent = [message(event) for event in some_events(240)]
    for start in range(0, 120, 40):
        app.publish(sent[start : start + 40])
        until(lambda: app.drained)
        assert app.archiver is not None
        assert app.archiver.flush(DEADLINE_S)
    app.close()
    make_live(folder, "g1")
    app = opened(folder)
    app.start()
    for start in range(120, len(sent), 40):
        app.publish(sent[start : start + 40])
        until(lambda: app.drained)
    assert app.archiver is not None
    assert app.archiver.flush(DEADLINE_S)
    shutil.copytree(folder, whole)
    app.close()


def make_live(folder: Path, name: str) -> None:
    """Make a generation out of the live one, as a retraining does that changes nothing."""
    parent = RocksStore(folder)
    where = generations.generation_folder(folder, name)
    where.mkdir(parents=True)
    parent.checkpoint(where / "state")
    offsets, was = parent.offsets(), parent.generation
    parent.close()
    store = RocksStore(folder, generation=name)
    store.commit([store.become(name)], offsets)
    store.sync()
    store.close()
    cut = {f"{at.topic}/{at.partition}": offset for at, offset in offsets.items()}
    said = manifest.Manifest(generation=name, parent=was, cut=cut, events=100, settings={}, trained={}, candidate="all", churn={})  # fmt: skip
    manifest.write(where, said, RefittedTables(USERS, [], {}, {}))
    record = generations.GenerationRecord(id=name, parent=was, cut=cut, seconds={generations.WATCHED: 0.0})
    generations.write_record(folder, record.at_stage("cut").at_stage("trained").at_stage("live"))
    generations.set_live(folder, name)


@dataclass(frozen=True)
class Found:
    """What a start on a data directory comes to, and what of it is said."""

    refused: str = ""  # the sentence with which it refuses to start, or stops
    digest: str = ""
    answers: tuple[object, ...] = ()
    rows: tuple[object, ...] = ()  # of the archive; empty if it cannot be read whole
    said: str = ""  # by /healthz
    deep: str = ""  # by `streamer doctor --deep`


def look(folder: Path) -> Found:
    """Start on a data directory, learn what is left to learn, answer, stop, and read everything."""
    try:
        app = opened(folder)
    except StreamerError as error:
        return Found(refused=str(error))
    try:
        app.start()
        until(lambda: app.drained or app.ended)
        until(lambda: app.renormaliser.idle or app.ended)
        if app.failure is not None:
            assert isinstance(app.failure, StreamerError), repr(app.failure)
            return Found(refused=str(app.failure))
        assert app.archiver is not None
        with suppress(StreamerError):
            app.archiver.flush(DEADLINE_S)
        view = app.view()
        answers = tuple(f"{view.recommend(user, 5)} {[view.predict(user, item) for item in ITEMS]}" for user in USERS)
        said = "; ".join(filter(None, (app.damage(), app.archiver.trouble)))
    except StreamerError as error:
        return Found(refused=str(error))
    finally:
        app.close()
    return Found("", _digest(folder), answers, _rows(folder), said, _deep(folder))


def _digest(folder: Path) -> str:
    store = RocksStore(folder, read_only=True)
    try:
        return store.digest().digest
    finally:
        store.close()


def _rows(folder: Path) -> tuple[object, ...]:
    archive = Archive(folder)
    found = tuple(archive.records(0, 1 << 60))
    return () if archive.damaged else found


def _deep(folder: Path) -> str:
    said = []
    for _, check in deep_checks(folder):
        try:
            check()
        except StreamerError as error:
            said.append(str(error))
    return "; ".join(said)
