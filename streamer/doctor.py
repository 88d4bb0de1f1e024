"""Checks whether `streamer serve` can run here: one check for each part, with a sentence that says what to do if it fails.

The checks leave no trace: the files they write are removed again, and a state is opened read-only.
"""

import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import msgspec

from streamer.api.security import required_token, tls
from streamer.api.sockets import listen
from streamer.compile import compile_kernels, is_compiled, learner_names
from streamer.core.errors import BadState, NotAuthorised, SourceUnavailable, StreamerError
from streamer.core.kernel import CACHE_FOLDER
from streamer.core.settings import Settings
from streamer.integrity import damaged_generations, deep_checks
from streamer.recovery import examine as examine_log
from streamer.renormalise import manifest
from streamer.renormalise.training import candidates
from streamer.serving.opening import learners
from streamer.storage import generations
from streamer.storage.archive.archive import Archive
from streamer.storage.rocks import refuse_in_use
from streamer.storage.state import FORMAT, RocksStore
from streamer.stream.memory import state_settings

PYTHON = (3, 11)
FREE_BYTES = 1 << 30
FSYNC_S = 0.05  # a slower disk delays publishers noticeably
FSYNCS = 5
KAFKA_S = 15.0  # how long to wait for a precise error from Kafka, once it accepts connections
DISTRIBUTION = "streamer-recs"
OPTIONAL = ("torch", "gensim")
LACKS = "lacks the topics"  # part of a message of streamer.kafka
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Check(msgspec.Struct, frozen=True):
    """The result of one check."""

    name: str
    ok: bool
    says: str  # what was found; on failure also what to do


Progress = Callable[[int, int, str], None]  # how many learners' kernels are compiled, of how many, and the next learner


def examine(settings: Settings, compiling: Progress | None, *, deep: bool = False) -> Iterator[Check]:
    """Yields every check as it is made. `compiling` reports the compilation of kernels; None: none are compiled.

    `deep`: also reads all of state, log, generations and archive, each with its checksums.
    """
    yield _python()
    yield _packages()
    yield _checked("kernels", lambda: _kernels(settings, compiling))
    yield _checked("data", lambda: _data(settings))
    yield _checked("generations", lambda: _generations(settings))
    if not settings.kafka.kafka:
        yield _checked("log", lambda: examine_log(Path(settings.state.data)) or "none yet")
    if settings.archive.archive:
        yield _checked("archive", lambda: _archive(Path(settings.state.data)))
    if deep:
        for name, look in deep_checks(Path(settings.state.data)):
            yield _checked(name, look)
    yield _checked("disk", lambda: _disk(Path(settings.state.data)))
    yield _checked("port", lambda: _port(settings))
    if settings.kafka.kafka:
        yield _checked("kafka", lambda: _kafka(settings))


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except StreamerError as error:
        return Check(name, False, str(error))


def _python() -> Check:
    found = (
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    )
    if sys.version_info < PYTHON:
        return Check(
            "python", False, f"{found}: streamer needs {'.'.join(map(str, PYTHON))} or newer; run `make setup`"
        )
    return Check("python", True, found)


def _packages() -> Check:
    """The packages of the base installation and their versions; the installer has checked these against their bounds."""
    try:
        wanted = [_NAME.match(text) for text in requires(DISTRIBUTION) or () if "extra ==" not in text]
        names = [found[0] for found in wanted if found]
        found = [(name, _version(name)) for name in (DISTRIBUTION, *names)]
    except PackageNotFoundError:
        return Check("packages", False, f"{DISTRIBUTION} is not installed: run `make setup`, or `pip install -e .`")
    missing = [name for name, number in found if number is None]
    if missing:
        return Check("packages", False, f"missing: {', '.join(missing)}; run `make setup`")
    extras = [f"{name} {number}" for name in OPTIONAL if (number := _version(name))]
    offline = ", ".join(extras) if extras else "not installed, and not needed to serve"
    return Check(
        "packages", True, ", ".join(f"{name} {number}" for name, number in found) + f"; extra offline: {offline}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _kernels(settings: Settings, compiling: Progress | None) -> str:
    """The kernels of the learners that the settings name."""
    names = learner_names(settings)
    missing = [name for name in names if not is_compiled(name)]
    if compiling is not None:
        began, numbers = time.perf_counter(), iter(range(len(missing)))
        compile_kernels(missing, lambda name: compiling(next(numbers), len(missing), name))
        took = f"compiled in {time.perf_counter() - began:.1f} s" if missing else "compiled before"
        return f"{took}: those of {', '.join(names)}, in {CACHE_FOLDER}"
    if missing:
        raise BadState(
            f"those of {', '.join(missing)} are not compiled: run `streamer doctor --compile`, or the first start takes "
            "half a minute longer"
        )
    return f"compiled, in {CACHE_FOLDER}"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _data(settings: Settings) -> str:
    folder = Path(settings.state.data)
    at = _existing(folder)
    if not at.is_dir():
        raise BadState(f"{folder} cannot be a directory, because {at} is a file: give another --data directory")
    try:
        tempfile.TemporaryFile(dir=at).close()
    except OSError as error:
        raise BadState(
            f"cannot write in {at}: {error.strerror}; make it writable, or give another --data directory"
        ) from None
    live = generations.live(folder)
    state = generations.state_folder(folder, live)
    if live == generations.FIRST and not (state / "CURRENT").exists():
        return f"{folder} is writable and holds no state yet"
    refuse_in_use([state])
    store = RocksStore(folder, read_only=True)
    try:
        meta = store.meta()
        if meta is None:
            return f"{folder} is writable and holds an empty state"
        chosen = learners(settings, store.promoted().values())
        change = store.open_as(state_settings(chosen, settings), chosen.champions)
        offsets = sum(store.offsets().values())
    finally:
        store.close()
    changes = [f"{name} would start to learn" for name in change.added]
    changes += [f"everything that {name} has learned would be deleted" for name in change.removed]
    found = f"{folder} holds a state of format {FORMAT}, made with these settings, with {offsets:,} events applied"
    return "; ".join([found, *changes])


def _generations(settings: Settings) -> str:
    """Lists the generations, and checks the files of the live one, because rebuilding the state needs them."""
    candidates(settings.renormalisation)
    folder = Path(settings.state.data)
    name, found = generations.live(folder), generations.read_records(folder)
    if not found:
        return "none yet"
    says = [f"{name} is live"]
    if name != generations.FIRST:
        cut = generations.read_record(folder, name).cut_events
        size = sum(
            file.size_bytes for file in manifest.read(generations.generation_folder(folder, name))[0].files.values()
        )
        says[0] += f", cut after {cut:,} events, and its files are undamaged ({size / 2**20:,.1f} MiB)"
    for sentence in damaged_generations(folder):
        raise BadState(sentence)
    others = [one for one in found if one.id != name and generations.state_folder(folder, one.id).exists()]
    unfinished = [one.id for one in others if one.stage in generations.UNDER_WAY]
    kept = [one.id for one in others if one.id not in unfinished]
    if kept:
        says.append(f"{', '.join(kept)} can be promoted again")
    if unfinished:
        says.append(f"serve will continue with {', '.join(unfinished)}")
    return "; ".join(says)


def _archive(data: Path) -> str:
    """Checks the sizes of the archive's files; only their list is read."""
    archive = Archive(data)
    archive.refuse_damaged(f"{len(archive.damaged):,} of {len(archive.manifest.files):,} files are missing or damaged")
    lost = "".join(f"; {loss.sentence()}" for loss in archive.manifest.lost)
    if not archive.manifest.files:
        return f"{archive.folder} holds nothing yet{lost}"
    return f"{archive.folder} holds {archive.rows:,} records in {archive.size_bytes / 2**20:,.1f} MiB{lost}"


def _disk(folder: Path) -> str:
    at = _existing(folder)
    free = shutil.disk_usage(at).free
    try:
        took = list(_fsyncs(at))
    except OSError as error:
        raise BadState(f"cannot write a file in {at}: {error.strerror}; make it writable, or free some space") from None
    found = f"{free / 2**30:,.1f} GiB free, an fsync takes {1000 * statistics.median(took):.1f} ms"
    if free < FREE_BYTES:
        raise BadState(f"{found}: free at least 1 GiB where {at} is, or use --data on another disk")
    if statistics.median(took) > FSYNC_S:
        raise BadState(f"{found}, and every Publish waits for one: use --data on a local disk")
    return found


def _fsyncs(folder: Path) -> Iterator[float]:
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FSYNCS):
            file.write(b"\0" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            yield time.perf_counter() - began


def _port(settings: Settings) -> str:
    token = required_token(settings.server, settings.security)
    tls(settings.security)
    listen(settings.server).close()
    who = "clients with the token" if token else "this machine" if not settings.security.insecure else "anybody"
    return f"{settings.server.host} port {settings.server.port} is free; requests are accepted from {who}"


def _kafka(settings: Settings) -> str:
    from streamer.consumers.kafka import KafkaSource  # imported late: Kafka's library is loaded only for this check
    from streamer.kafka.connection import connection, preflight

    kafka = settings.kafka
    preflight(connection(kafka))
    source = KafkaSource(msgspec.structs.replace(kafka, kafka_create_topics=False))
    until, sought = time.monotonic() + KAFKA_S, False
    try:
        while True:
            try:
                if sought:
                    source.poll(1, 1.0)
                else:
                    sought = True
                    source.seek({})
            except SourceUnavailable as error:
                if kafka.kafka_create_topics and LACKS in str(error):
                    return f"{kafka.kafka} answers and accepts the login; missing topics are created at the first start"
                if isinstance(error, NotAuthorised) or LACKS in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.2)
            if lag := source.lag():
                events = sum(count for partitions in lag.values() for count in partitions.values())
                return f"{kafka.kafka} answers and accepts the login; its topics hold {events:,} events"
    finally:
        source.close()


def failed_checks(checks: Sequence[Check]) -> list[Check]:
    """The checks that failed."""
    return [check for check in checks if not check.ok]
