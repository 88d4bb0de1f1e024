"""Compiles kernels before they are needed, by sending a few made-up events through each learner.

A start compiles what its own learners need to learn and to answer. `python -m streamer.compile`, which `make setup` and the
container image run, compiles all kernels of all learners, including those that only `streamer inspect` and retraining use. All
others are compiled on their first use, see `streamer.core.kernel`.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from streamer.core.batch import CLICK, RATING, Events
from streamer.core.errors import StreamerError
from streamer.core.events import LOG, Click, Message, Rating, message
from streamer.core.kernel import CACHE_FOLDER, unannounced
from streamer.core.protocols import Asking, Conditioned, Kind
from streamer.core.settings import Settings
from streamer.core.superseded import mark_repeated
from streamer.models import LEARNERS, REFITTED_BY, TRAINERS, learner
from streamer.renormalise.training import refit
from streamer.serving.opening import learners
from streamer.serving.recommend import POPULARITY, Recommender
from streamer.storage.log import EmbeddedLog, LogSource
from streamer.storage.state import RocksStore
from streamer.stream.engine import Engine, NullObserver
from streamer.stream.learners import assemble
from streamer.stream.memory import Memory
from streamer.study.clicked import FIRST_USERS, ClickedItems

OnCompile = Callable[[str], None]
EVALUATE = "evaluate"  # stands for the kernels of a ranking among the names of learners


def is_compiled(name: str) -> bool:
    """Whether this machine has compiled what the learner `name` needs to learn and to answer."""
    return _marker(name).exists()


def _marker(name: str) -> Path:
    """A marker file for each learner class, since names that share a class share its kernels."""
    return CACHE_FOLDER / "compiled" / LEARNERS[name].removeprefix("streamer.models.").replace(":", ".")


def learner_names(settings: Settings) -> list[str]:
    """The learners that a start with these settings creates, experts before the learners that use them. Raises BadSettings."""
    with unannounced():  # creating a learner runs a kernel that draws a few random numbers
        return list(learners(settings).by_name)


def compile_kernels(names: Iterable[str], on_compile: OnCompile) -> None:
    """Compile what these learners need to learn and to answer; `on_compile` gets the name of each one to be compiled."""
    for name in names:
        if not is_compiled(name):
            on_compile(name)
            _run(name)


def load_kernels(names: Iterable[str], on_compile: OnCompile) -> None:
    """As `compile_kernels`, and also load compiled kernels from disk, so that nothing has to be loaded later."""
    for name in names:
        if not is_compiled(name):
            on_compile(name)
        _run(name)


def compile_everything(on_compile: OnCompile) -> None:
    """Compile all kernels. Cost: about a minute of CPU the first time, a second afterwards."""
    _compile_all([*_with_kernels(), EVALUATE], on_compile)


def compile_everything_in_two_processes(on_compile: OnCompile) -> None:
    """Compile all kernels, those of the hybrids beside all others. Cost: as `compile_everything`, in two thirds of the time."""
    first, *rest = _with_kernels()
    _compile_all([first], on_compile)  # with what all learners share, which each process would compile anew
    hybrids = [name for name in rest if name == "stack" or name.startswith("bayesian-hybrid")]  # the stack uses them
    others = [name for name in rest if name not in hybrids]
    spawn = multiprocessing.get_context("spawn")
    beside = spawn.Process(target=_compile_all, args=(hybrids, on_compile))
    beside.start()
    _compile_all([*others, EVALUATE], on_compile)
    beside.join()
    if beside.exitcode:
        raise StreamerError(f"compiling the kernels of {', '.join(hybrids)} ended with {beside.exitcode}: see above")


def _with_kernels() -> list[str]:
    """The learners, without those that have the kernels of biased-mf or skip-gram."""
    return [name for name in LEARNERS if REFITTED_BY.get(name) not in ("factors", "click-factors")]


def _compile_all(names: Iterable[str], on_compile: OnCompile) -> None:
    for name in names:
        on_compile(name)
        if name == EVALUATE:
            with unannounced():
                _exercise_clicked()
        else:
            _run(name, everything=True)


def _run(name: str, *, everything: bool = False) -> None:
    with tempfile.TemporaryDirectory() as folder, unannounced():
        _exercise(name, Path(folder), everything=everything)
    _marker(name).parent.mkdir(parents=True, exist_ok=True)
    _marker(name).touch()


def _exercise(name: str, folder: Path, *, everything: bool) -> None:
    settings = Settings()
    chosen = learner(name, seed=1)
    champions: dict[Kind, str] = {"ratings": "bias", "clicks": "popularity"}
    champions[chosen.kind] = name
    store, log = RocksStore(folder), EmbeddedLog(folder)
    try:
        made = assemble([*champions.values(), POPULARITY], champions, lambda wanted: learner(wanted, seed=1))
        memory = Memory(made, settings, store)
        log.publish(_events())
        engine = Engine(LogSource(log), memory, NullObserver(), max_records=100, commit_interval_s=1.0)
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
        if everything:
            _exercise_the_rest(name, memory)
    finally:
        log.close()
        store.close()


def _exercise_the_rest(name: str, memory: Memory) -> None:
    """Run the methods that only `streamer inspect` and retraining use."""
    chosen = memory.learners.by_name[name]
    if isinstance(chosen, Conditioned):
        item, nobody = np.zeros(1, dtype=np.int32), memory.users.view("nobody").rows[name]
        row = chosen.condition(nobody, {0: 1.0}, item, np.ones(1, dtype=np.float32))
        chosen.uncertainty(row, item)
        if isinstance(chosen, Asking):
            chosen.questions(row, item, chosen.ratings_of(item), item, 1)
    by = TRAINERS.get(REFITTED_BY.get(name, ""), "")
    if by and not by.startswith(
        "streamer.models.offline"
    ):  # offline trainers have no kernels of their own, and need torch
        refit(memory, _history(), [name])


def _exercise_clicked() -> None:
    """Run the kernels of `streamer.study.clicked`, which only a ranking needs."""
    clicked = ClickedItems()
    for n in range(FIRST_USERS + 1):
        clicked.add(clicked.number(str(n)), n)
    clicked.items(0)


def _events() -> list[Message]:
    events: list[Message] = []
    for n in range(200):
        user, item = f"u{n % 7}", f"i{n % 11}"
        events.append(message(Rating(user, item, 1.0 + n % 5, n * 1000, f"e{n}")))
        events.append(message(Click(user, item, ("view", "purchase", "dislike")[n % 3], n * 1000)))
    return events


def _history() -> Events:
    """A history for a retraining."""
    n = np.repeat(np.arange(200, dtype=np.int32), 2)  # as many as were learned, see training.COMPLETE
    kinds, values = np.tile(np.array([RATING, CLICK], dtype=np.uint8), 200), (1 + n % 5).astype(np.float32)
    never = np.zeros(len(n), dtype=np.bool_)  # as without times: nothing is taken for a click made again
    mark_repeated(n % 7, n % 11, 0 * n, values, n.astype(np.int64), never, kinds, 1)
    ids = [f"u{k}" for k in range(7)], [f"i{k}" for k in range(11)]
    return Events(*ids, n % 7, n % 11, kinds, values, n.astype(np.int64), n.astype(np.uint64))


def _print_name(name: str) -> None:
    print(f"compiling the kernels of {name}, once ...", flush=True)


if __name__ == "__main__":  # run by `make setup` and when the image is built
    compile_everything_in_two_processes(_print_name)
