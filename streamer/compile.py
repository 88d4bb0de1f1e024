"""Compiles every kernel once, visibly: a few made-up events through the whole path, with every learner there is."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from streamer.core.batch import CLICK, RATING, Events
from streamer.core.events import LOG, Click, Message, Offsets, Rating, Record, message
from streamer.core.kernel import CACHE_FOLDER
from streamer.core.protocols import Asking, Conditioned, Kind
from streamer.core.settings import Settings
from streamer.models import LEARNERS, REFITTED_BY, TRAINERS, learner
from streamer.renormalise.training import retrained
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine
from streamer.stream.learners import assemble
from streamer.stream.memory import Memory

_DONE = CACHE_FOLDER / "compiled"


def compiled() -> bool:
    """Whether the kernels of this source are compiled on this machine."""
    return _DONE.exists()


class _Nobody:
    def applied(self, records: Sequence[Record], offsets: Offsets) -> None:
        """Nobody waits."""

    def committed(self, offsets: Offsets, seconds: float) -> None:
        """Nobody waits."""


def compile_kernels(progress: Callable[[str], None]) -> None:
    """Compile, telling `progress` which learner is next. Cost: some 30 s of CPU the first time, a second afterwards."""
    for name in LEARNERS:
        if REFITTED_BY.get(name) in ("factors", "click-factors"):  # biased-mf's and skip-gram's kernels
            continue
        progress(name)
        with tempfile.TemporaryDirectory() as folder:
            _exercise(name, Path(folder))
    _DONE.parent.mkdir(parents=True, exist_ok=True)
    _DONE.touch()


def _exercise(name: str, folder: Path) -> None:
    settings = Settings()
    chosen = learner(name, seed=1)
    champions: dict[Kind, str] = {"ratings": "bias", "clicks": "popularity"}
    champions[chosen.kind] = name
    store, log = RocksStore(folder), EmbeddedLog(folder)
    try:
        made = assemble([*champions.values(), POPULARITY], champions, lambda wanted: learner(wanted, seed=1))
        memory = Memory(made, settings, store)
        log.publish(_events())
        engine = Engine(LogSource(log), memory, _Nobody(), max_records=100, commit_interval_s=1.0)
        while engine.step(0.0):
            pass
        engine.commit()
        memory.dedupe.forget(LOG, ["e1"])
        recommender = Recommender(memory, made.by_name[POPULARITY])
        for user in ("u1", "nobody"):
            recommender.recommend(user, 3)
            recommender.predict(user, "i1")
        recommender.similar_items("i1", 3)
        recommender.recommend_for_preferences({}, {"i1": 5.0}, 3)
        if isinstance(chosen, Conditioned):
            item, nobody = np.zeros(1, dtype=np.int32), memory.users.view("nobody").rows[name]
            row = chosen.condition(nobody, {0: 1.0}, item, np.ones(1, dtype=np.float32))
            chosen.uncertainty(row, item)
            if isinstance(chosen, Asking):
                chosen.questions(row, item, chosen.ratings_of(item), item, 1)
        by = TRAINERS.get(REFITTED_BY.get(name, ""), "")
        if by and not by.startswith("streamer.models.offline"):  # those have no kernels of their own, and need torch
            retrained(memory, _history(), [name])
    finally:
        log.close()
        store.close()


def _events() -> list[Message]:
    events: list[Message] = []
    for n in range(200):
        user, item = f"u{n % 7}", f"i{n % 11}"
        events.append(message(Rating(user, item, 1.0 + n % 5, n * 1000, f"e{n}")))
        events.append(message(Click(user, item, ("view", "purchase", "dislike")[n % 3], n * 1000)))
    return events


def _history() -> Events:
    """What a retraining reads."""
    n = np.repeat(np.arange(200, dtype=np.int32), 2)  # as many as were learned, see training.COMPLETE
    kinds, values = np.tile(np.array([RATING, CLICK], dtype=np.uint8), 200), (1 + n % 5).astype(np.float32)
    ids = [f"u{k}" for k in range(7)], [f"i{k}" for k in range(11)]
    return Events(*ids, n % 7, n % 11, kinds, values, n.astype(np.int64), n.astype(np.uint64))


if __name__ == "__main__":  # `make setup` and the image do it once, where people see it
    compile_kernels(lambda name: print(f"compiling the kernels, once: {name} ...", flush=True))
