"""Retraining: learners' tables are refitted on a whole history, and then replace the live ones.

A trainer fits a copy of its learner, so that no live table changes before `replace_tables`. Item rows are those of the
memory; user rows are numbered as in the history. Users without an event in the history, and learners without a trainer,
keep their rows.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np

from streamer.core.arrays import I32, I64, U8, Array, Bool
from streamer.core.batch import CLICK, NO_PROFILES, RATING, REPEATED, Batch, Events, Profiles, Seen
from streamer.core.errors import BadSettings, MissingExtra, StreamerError
from streamer.core.protocols import Categorised, Informed, OnlineLearner, Rebuilt, Row, Rows, Trainer
from streamer.core.seed import id_key
from streamer.core.settings import RenormalisationSettings
from streamer.core.superseded import current
from streamer.models import ALSO_REFITTED_BY, REFITTED_BY, trainer
from streamer.models.offline import CLICK_FACTORISING, FACTORISING
from streamer.monitoring.scale import Scale, on_latest_scale, user_key
from streamer.renormalise.churn import Churn, measure_churn
from streamer.renormalise.side_information import side_information
from streamer.stream.history_rows import PAGE_ITEMS, SEEN_WINDOW
from streamer.stream.memory import Memory

LOG = logging.getLogger("streamer.training")
COMPLETE = 0.99  # share of the learned events that a history must hold for a fit from initial values
# The offline models from which a candidate `model:NAME` may take a learner's rows. Learners with the name of a model are not listed:
# that model always fits them.
OF_THE_FIELD = {"biased-mf": FACTORISING, "skip-gram": CLICK_FACTORISING}
OnProgress = Callable[[str, float], None]  # a learner's name and the share of its training that is done


class Candidate(msgspec.Struct, frozen=True):
    """How to retrain; the gate decides between several candidates. Each field concerns only trainers that support it."""

    window_days: float | None = None  # leave older events out
    half_life_days: float | None = None  # an event of this age counts half
    warm: bool = False  # start from the live rows, for histories that do not go back to the beginning
    model: str | None = None  # used instead of the default trainer, for learners that it can fit
    vectors: str | None = None  # a file of initial item vectors, see streamer.models.offline.clicks.vector_file
    fixed: bool = False  # items of that file keep its vectors; only the others are trained

    @property
    def name(self) -> str:
        """Its text form, which `candidate` parses."""
        if self.vectors is not None:
            return f"{'fixed-vectors' if self.fixed else 'vectors'}:{self.vectors}"
        if self.model is not None:
            return f"model:{self.model}"
        if self.warm:
            return "warm"
        if self.window_days is not None:
            return f"window:{self.window_days:g}"
        return "all" if self.half_life_days is None else f"half-life:{self.half_life_days:g}"


ALL = Candidate()


def candidate(text: str) -> Candidate:
    """Parse `all`, `window:DAYS`, `half-life:DAYS`, `warm`, `model:NAME`, `vectors:FILE` or `fixed-vectors:FILE`.

    Raises BadSettings for anything else.
    """
    what, _, days = text.strip().partition(":")
    if what in ("vectors", "fixed-vectors") and days:
        return Candidate(model="word2vec", vectors=days, fixed=what != "vectors")
    if what == "model" and days in model_names():
        return Candidate(model=days)
    try:
        if not days and what in ("all", "warm"):
            return Candidate(warm=what == "warm")
        if what in ("window", "half-life") and 0 < float(days) < inf:
            return Candidate(window_days=float(days)) if what == "window" else Candidate(half_life_days=float(days))
    except ValueError:
        pass
    raise BadSettings(
        f"no candidate {text!r}: wanted all, window:DAYS, half-life:DAYS, warm, model:NAME ({', '.join(model_names())}), "
        "vectors:FILE or fixed-vectors:FILE, as in all,window:30"
    )


def candidates(chosen: RenormalisationSettings) -> tuple[Candidate, ...]:
    """The candidates that the settings name; raises BadSettings for an invalid one, and for a file of vectors that is missing.

    With an external renormaliser such files are not checked, as they are on its machine.
    """
    found = tuple(candidate(text) for text in chosen.candidates)
    for one in found:
        if one.vectors is not None and chosen.renormaliser != "external" and not Path(one.vectors).is_file():
            raise BadSettings(
                f"the candidate {one.name} needs a file of vectors, and there is none at {Path(one.vectors).absolute()}: "
                "give an absolute path, or one relative to where the streamer is started"
            )
    return found


def model_names() -> list[str]:
    """The valid NAMEs of `model:NAME`: trainers other than the default ones, and offline models that factorise."""
    return sorted({*FACTORISING, *CLICK_FACTORISING, *(name for names in ALSO_REFITTED_BY.values() for name in names)})


@dataclass(frozen=True, slots=True)
class RefittedTables:
    """The result of a retraining: tables that can replace the live ones."""

    user_ids: Sequence[str]  # of the rows of user tables
    item_ids: Sequence[str]  # of the rows of item tables
    tables: Mapping[str, Mapping[str, Array]]  # learner -> table -> (rows, width); tables of the stream have one row
    churn: Mapping[str, Churn]  # learner -> how much the retraining changes it


def refit(
    memory: Memory, events: Events, names: Sequence[str] | None = None, chosen: Candidate = ALL, *,
    on_progress: OnProgress | None = None,
) -> RefittedTables:  # fmt: skip
    """Refit the learners `names` (default: all that have a trainer) on `events`.

    Reads `memory`, with nothing uncommitted, and changes nothing. The result depends only on the events, the catalogue and
    the profiles, unless the candidate is `warm`: then it also depends on the live rows, and only those learners are fitted whose trainers
    support `warm`. When learned events of current users are missing in `events`, the candidate becomes warm, as a fit without
    these events would lose what was learned from them. Learners whose trainers are not installed are left out, with a warning.
    Runs in one thread; the same memory and events give the same bytes. Raises StreamerError for a learner without a trainer,
    and for events of items that the memory does not know.
    """
    events, learned = _without_forgotten(memory, events), memory.users.stored.events()
    if len(events) < COMPLETE * learned and not chosen.warm:
        LOG.warning(
            "the history holds %d of the %d events that were learned: only learners that can start from their live rows "
            "are refitted, the others are carried over",
            len(events),
            learned,
        )
        chosen = msgspec.structs.replace(chosen, warm=True)
    whole, events = len(events), current(events)
    if len(events) < whole:
        LOG.info(
            "%d of %d events are left out: later ones replaced or withdrew them, or they say nothing new",
            whole - len(events),
            whole,
        )
    names = names or _refitted(memory)
    if chosen.model in FACTORISING and "als" not in map(REFITTED_BY.get, names):
        LOG.warning(
            "the candidate %s refits biased-mf, which is not among %s: add --shadow biased-mf", chosen.name, names
        )
    fitting = _trainers(memory, names, chosen)
    history = history_batch(memory, events)
    tables, churn = {}, {}
    for name, one in fitting.items():
        warm = bool(getattr(one.parameters, "warm", False))
        if chosen.warm and not warm:
            continue
        copy = empty_copy(memory, memory.learners.by_name[name], events.user_ids)
        if warm:
            _load_rows(copy, _rows_of(memory, copy, events.user_ids))
        if isinstance(one, Informed):
            one.inform(side_information(memory, events.user_ids))
        try:
            one.fit(copy, history, partial(on_progress, name) if on_progress else _no_progress)
        except MissingExtra as error:
            LOG.warning("%s is carried over as it is: %s", name, error)
            continue
        rows = {"user": len(events.user_ids), "item": len(memory.items), "stream": 1}
        fitted = copy.tables()
        tables[name] = {called: found[: rows[fitted[called].side]] for called, found in one.export().items()}
        churn[name] = measure_churn(
            _live_copy(memory, name, events.user_ids), _load_rows(copy, tables[name]), history, len(memory.items)
        )
    return RefittedTables(events.user_ids, list(memory.items.ids), tables, churn)


def _refitted(memory: Memory) -> list[str]:
    return [name for name in memory.learners.by_name if name in REFITTED_BY]


def _trainers(memory: Memory, names: Sequence[str], chosen: Candidate) -> dict[str, Trainer]:
    """The trainers by learner, without those whose library is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = _trainer(memory, name, chosen)
        except MissingExtra as error:
            LOG.warning("%s is carried over as it is: %s", name, error)
    return found


def _trainer(memory: Memory, name: str, chosen: Candidate) -> Trainer:
    memory.learners.running(name)
    if name not in REFITTED_BY:
        raise StreamerError(f"no trainer refits {name!r}; trainers exist for: {', '.join(sorted(REFITTED_BY))}")
    given = {key: value for key, value in msgspec.structs.asdict(chosen).items() if value is not None}
    called = given.pop("model", None)
    if called in ALSO_REFITTED_BY.get(name, ()):
        return trainer(str(called), **given)
    if called in OF_THE_FIELD.get(name, ()):
        return trainer("click-factors" if called in CLICK_FACTORISING else "factors", model=called, **given)
    return trainer(REFITTED_BY[name], **given)


def replace_tables(memory: Memory, found: RefittedTables) -> None:
    """Replace the live tables with the refitted ones, in memory and in one write batch of the store.

    Call it in the engine's thread, with nothing uncommitted. Raises StreamerError for items that the memory does not know.
    """
    rows: list[Row | Rows] = []
    places = _item_rows(memory, found.item_ids)
    known = memory.users.known(found.user_ids)
    user_ids = [user_id for user_id, here in zip(found.user_ids, known.tolist(), strict=True) if here]
    for name, tables in found.tables.items():
        learner = memory.learners.by_name[name]
        live = learner.tables()
        for called, values in tables.items():
            table = live[called]
            if table.side == "user":
                rows.append(memory.users.replace_rows(name, user_ids, values[known]))
            else:
                into = places if table.side == "item" else np.zeros(1, dtype=np.int32)
                changed = into[(_bits(table.values[into]) != _bits(values)).any(axis=1)]
                table.values[into] = values
                table.touched[changed] = 1
        if isinstance(learner, Rebuilt):
            learner.restored()
    rows.extend(memory.learners.changed())
    memory.store.commit(rows, memory.ledger.offsets)
    memory.learners.committed()


def empty_copy(memory: Memory, learner: OnlineLearner, user_ids: Sequence[str]) -> OnlineLearner:
    """A copy of the learner with initial rows: for all items of the memory, and for `user_ids`, in their order."""
    made: Any = type(learner)
    copy = cast(OnlineLearner, made(learner.name, learner.parameters, seed=memory.encoder.seed))
    sides = {"user": user_ids, "item": memory.items.ids}
    keys: dict[str, list[int]] = {}
    for table in copy.tables().values():
        if table.side != "stream":
            ids = sides[table.side]
            if table.random and table.side not in keys:
                keys[table.side] = [id_key(memory.encoder.seed, table.side, one) for one in ids]
            table.reserve(len(ids))
            table.begin(np.arange(len(ids), dtype=np.int32), keys.get(table.side) or [0] * len(ids))
    if isinstance(copy, Categorised):
        copy.attach(memory.items.categories.words, memory.items.categories.category_sets)
    return copy


def _live_copy(memory: Memory, name: str, user_ids: Sequence[str]) -> OnlineLearner:
    """A copy of the live learner with its rows; user rows in the order of `user_ids`."""
    copy = empty_copy(memory, memory.learners.by_name[name], user_ids)
    return _load_rows(copy, _rows_of(memory, copy, user_ids))


def _rows_of(memory: Memory, learner: OnlineLearner, user_ids: Sequence[str]) -> dict[str, Array]:
    live, rows = memory.learners.by_name[learner.name].tables(), {"item": len(memory.items), "stream": 1}
    return {
        called: memory.users.learned_rows(learner.name, user_ids)
        if table.side == "user"
        else table.values[: rows[table.side]]
        for called, table in live.items()
    }


def _load_rows(learner: OnlineLearner, tables: Mapping[str, Array]) -> OnlineLearner:
    """Copy these rows into the learner's tables; returns the learner."""
    for called, values in tables.items():
        learner.tables()[called].values[: len(values)] = values
    if isinstance(learner, Rebuilt):
        learner.restored()
    return learner


def history_batch(memory: Memory, events: Events) -> Batch:
    """All events as one batch: item rows are the memory's, user rows are numbered as in `events.user_ids`.

    Ratings are clipped to the scale of their time, as they were when they were learned, and are all on the latest scale.
    """
    rated = events.kinds == RATING
    scale, keys = Scale(), np.array([user_key(user_id) for user_id in events.user_ids], dtype=np.uint64)
    scale.silent = True
    items = _item_rows(memory, events.item_ids)[events.items]
    found = scale.follow(rated, events.values, keys[events.users], items, memory.encoder.like_share)
    clicks = np.where(events.kinds == CLICK, events.values, found.likes).astype(np.float32)
    values = on_latest_scale(found.learned, rated, found.changes)
    lows, highs = (on_latest_scale(ends, np.ones_like(rated), found.changes) for ends in (found.lows, found.highs))
    seen_counts, seen = _seen(events.users, items, len(events.user_ids))
    return Batch(
        events.kinds, events.users, items, values, clicks, events.times_ms, events.keys, lows, highs, seen_counts,
        seen, profiles=_profiles(memory, events.user_ids), begins=_begins(events, memory.monitor.sessions.gap_s),
    )  # fmt: skip


def _begins(events: Events, gap_s: float) -> U8:
    """Which events begin a session, (n,), by the gap of today alone: `session_id`s are not among the events of a retraining."""
    kept = np.flatnonzero(events.kinds != REPEATED)
    order = kept[np.argsort(events.users[kept], kind="stable")]
    users, times_ms = events.users[order], events.times_ms[order]
    begins = np.zeros(len(events), dtype=np.uint8)
    begins[order[:1]] = 1
    begins[order[1:]] = (users[1:] != users[:-1]) | (np.diff(times_ms) > 1000 * gap_s)
    return begins


def _without_forgotten(memory: Memory, events: Events) -> Events:
    """The events without those of users who were forgotten."""
    known = memory.users.known(events.user_ids)
    if known.all():
        return events
    number = np.cumsum(known) - 1
    kept = events.select(known[events.users])
    user_ids = [user_id for user_id, here in zip(events.user_ids, known.tolist(), strict=True) if here]
    return Events(
        user_ids, kept.item_ids, number[kept.users].astype(np.int32), kept.items, kept.kinds, kept.values,
        kept.times_ms, kept.keys,
    )  # fmt: skip


def _item_rows(memory: Memory, item_ids: Sequence[str]) -> I32:
    row_of = memory.items.row_of
    missing = next((item_id for item_id in item_ids if item_id not in row_of), None)
    if missing is not None:
        raise StreamerError(
            f"the history has events of the item {missing!r}, which this state does not know: retrain on the history of this "
            "state, up to its cut"
        )
    return np.array([row_of[item_id] for item_id in item_ids], dtype=np.int32)


def _seen(users: I32, items: I32, count: int) -> tuple[I64, Seen]:
    """How many distinct items each event's user had seen before it, (n,), and which ones, without a limit on their number."""
    order = np.argsort(users, kind="stable")
    _, firsts = np.unique(users.astype(np.int64) << 32 | items, return_index=True)
    first: Bool = np.zeros(len(users), dtype=np.bool_)
    first[firsts] = True
    ends = np.cumsum(np.bincount(users, minlength=count))
    before = np.concatenate([[0], np.cumsum(first[order])])
    starts = before[np.concatenate([[0], ends[:-1]])] if count else before[:0]
    seen_counts = np.empty(len(users), dtype=np.int64)
    seen_counts[order] = before[:-1] - starts[users[order]]
    counts = np.bincount(users[first], minlength=count).astype(np.int64)
    pages_of = -(-counts // PAGE_ITEMS)
    page_starts = np.cumsum(pages_of) - pages_of
    page_of = np.full((count, max(1, int(pages_of.max(initial=0)))), -1, dtype=np.int32)
    for page in range(page_of.shape[1]):
        has = pages_of > page
        page_of[has, page] = page_starts[has] + page
    pages = np.full((max(1, int(pages_of.sum())), PAGE_ITEMS), -1, dtype=np.int32)
    news = np.flatnonzero(first)
    number = seen_counts[news]
    pages[page_of[users[news], number // PAGE_ITEMS], number % PAGE_ITEMS] = items[news]
    return seen_counts, Seen(pages, page_of, counts, SEEN_WINDOW)


def _profiles(memory: Memory, user_ids: Sequence[str]) -> Profiles:
    profiles = memory.users.profiles.empty_copy()
    found = False
    for row, user_id in enumerate(user_ids):
        profile = memory.users.profile(user_id)
        if profile is not None:
            profiles.put(row, profile)
            found = True
    return profiles.arrays() if found else NO_PROFILES


def _bits(values: Array) -> Array:
    raw = np.ascontiguousarray(values).view(np.uint8)
    return raw.reshape(len(values), raw.size // max(1, len(values)))


def _no_progress(share: float) -> None:
    """The progress callback when none is given."""
