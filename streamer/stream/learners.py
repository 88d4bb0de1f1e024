"""All running learners, champions and shadows. Each learns every batch, and has its own tables in the store."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.batch import PROPOSE, Batch, Opinion
from streamer.core.errors import BadSettings, BadState, StreamerError
from streamer.core.protocols import (
    Categorised,
    Composed,
    Conditioned,
    Kind,
    OnlineLearner,
    Probed,
    Proposing,
    Rebuilt,
    Rescaled,
    Row,
    Rows,
    StateStore,
)
from streamer.core.tables import Table
from streamer.storage.state import LEARNED
from streamer.stream.catalogue.items import Items
from streamer.stream.stored_users import in_order, table_rows

_STREAM = b"stream"
_NO_SCORES: F32 = np.empty((0, 0), dtype=np.float32)


class Learners:
    """All learners; protocols.Persistent for their item and stream tables (user tables belong to the user cache)."""

    def __init__(self, learners: Sequence[OnlineLearner], champions: Mapping[Kind, str]) -> None:
        """`learners` in the order of learning, experts before the learners that combine them.

        `champions` are the learners that the settings name for each kind; they answer unless another one is promoted, and a
        composed learner that names a kind as its expert means them. Raises BadSettings when one learns from the other kind.
        """
        self.by_name = {learner.name: learner for learner in learners}
        self.champions: dict[Kind, str] = dict(champions)
        self.promoted: Mapping[Kind, str] = {}  # replaced as a whole: queries read it from other threads
        for kind, name in champions.items():
            if self.by_name[name].kind != kind:
                raise BadSettings(
                    f"{name!r} learns from {self.by_name[name].kind}, so it cannot be the champion for {kind}"
                )
        self._items: Items | None = None
        # Looked up once: to ask a protocol costs as much as a small batch.
        self._composed = {name: learner for name, learner in self.by_name.items() if isinstance(learner, Composed)}
        self._probed = {name: learner for name, learner in self.by_name.items() if isinstance(learner, Probed)}
        self._proposing = {name for name, learner in self.by_name.items() if isinstance(learner, Proposing)}
        self._by_turns = sorted(self.by_name, key=lambda name: name not in self._proposing)
        self.experts = {name: self._compose(learner) for name, learner in self._composed.items()}

    def _compose(self, composed: Composed) -> dict[str, str]:
        """Give a learner its experts; returns their names by the names that it uses for them."""
        names = {alias: _expert_name(alias, self.champions) for alias in composed.experts}
        composed.compose({alias: self.by_name[name] for alias, name in names.items()})
        return names

    def champion(self, kind: Kind) -> OnlineLearner:
        """The learner that answers for a kind: the promoted one, or that in the settings."""
        return self.by_name[self.promoted.get(kind) or self.champions[kind]]

    def names_in_use(self, *also: str) -> set[str]:
        """The names of the champions, of the learners `also` (ignored if empty) and of the experts of both.

        All other learners are challengers.
        """
        found, left = set[str](), [*also, *(self.champion(kind).name for kind in self.champions)]
        while left:
            found.add(name := left.pop())
            left += self.experts.get(name, {}).values()
        return found

    def rater_with_belief(self) -> OnlineLearner:
        """The champion for ratings, or the first of its experts that is Conditioned if the champion is not."""
        champion = self.champion("ratings")
        named = [self.by_name[name] for name in self.experts.get(champion.name, {}).values()]
        return next((learner for learner in (champion, *named) if isinstance(learner, Conditioned)), champion)

    def running(self, name: str) -> OnlineLearner:
        """The learner of this name; raises StreamerError if it does not run."""
        if name not in self.by_name:
            raise StreamerError(
                f"no learner {name!r} runs here, only {', '.join(self.by_name)}: start with --shadow {name}, and promote "
                "it once it has learned"
            )
        return self.by_name[name]

    def promote(self, name: str) -> None:
        """Make a learner the champion of its kind. Nothing learned changes. Raises StreamerError like `running`."""
        kind = self.running(name).kind
        others = {of: promoted for of, promoted in self.promoted.items() if of != kind}
        self.promoted = others if name == self.champions.get(kind) else {**others, kind: name}

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """Learn a batch; returns each learner's predictions (n,) from before each event, ratings clipped to the scale before it."""
        if not len(batch):
            return {name: np.empty(0, dtype=np.float32) for name in self.by_name}
        if batch.changes:
            return self._learn_through_changes(batch)
        found = {name: opinion.predicted for name, opinion in self.opinions(batch)}
        return {
            name: found[name].clip(batch.lows, batch.highs) if learner.kind == "ratings" else found[name]
            for name, learner in self.by_name.items()
        }

    def _learn_through_changes(self, batch: Batch) -> dict[str, F32]:
        """As `learn`; what is known is converted wherever the scale of ratings changes."""
        parts, start = [], 0
        for one in batch.changes:
            parts.append(self.learn(replace(batch.part(start, one.at), changes=())))
            start = one.at
            for learner in self.by_name.values():
                if isinstance(learner, Rescaled):
                    learner.rescale(one.factor, one.shift)
        parts.append(self.learn(replace(batch.part(start, len(batch)), changes=())))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.by_name}

    def opinions(self, batch: Batch) -> Iterator[tuple[str, Opinion]]:
        """Let the learners learn one after the other; yields each one's name and its opinion of the batch, not clipped."""
        asked = {name: learner.probes(batch) for name, learner in self._composed.items()}
        probes = self._probes(asked)
        opinions: dict[str, Opinion] = {}
        for asker, rows in asked.items():
            if self._proposing.isdisjoint(self.experts[asker].values()):
                rows[rows == PROPOSE] = -1
        for name in self._by_turns:  # those that propose first
            if name in self._probed and name in probes:
                opinions[name] = self._learn_probed(name, batch, list(probes[name].values()))
            elif name in self._composed:
                predicted = self.by_name[name].learn(
                    replace(batch, probes=asked[name], opinions=self._opinions_of_experts(name, probes, opinions))
                )
                opinions[name] = Opinion(predicted, _NO_SCORES)
            else:
                opinions[name] = Opinion(self.by_name[name].learn(batch), _NO_SCORES)
            yield name, opinions[name]

    def _probes(self, asked: Mapping[str, I32]) -> dict[str, dict[str, I32]]:
        """Item rows (n, m) to probe: by expert, then by the learner that asks."""
        probes: dict[str, dict[str, I32]] = {}
        for name, rows in asked.items():
            if rows.shape[1]:
                for expert in self.experts[name].values():
                    probes.setdefault(expert, {})[name] = rows
        return probes

    def _learn_probed(self, name: str, batch: Batch, wanted: Sequence[I32]) -> Opinion:
        """Let a learner learn and score what several learners ask for, and give these what it proposes."""
        rows = wanted[0] if len(wanted) == 1 else np.hstack(wanted)
        opinion = self._probed[name].learn_probed(batch, rows)
        if name in self._proposing and len(wanted) > 1:
            start = 0
            for asked in wanted:
                asked[:] = rows[:, start : start + asked.shape[1]]
                start += asked.shape[1]
        return opinion

    def _opinions_of_experts(
        self, name: str, probes: dict[str, dict[str, I32]], opinions: Mapping[str, Opinion]
    ) -> dict[str, Opinion]:
        """The opinions of the experts of `name`, with only the scores that it asked for."""
        found = {}
        for alias, expert in self.experts[name].items():
            start, own = 0, opinions[expert].scores
            for asker, asked in probes.get(expert, {}).items():
                if asker == name and own.shape[1]:
                    own = own[:, start : start + asked.shape[1]]
                    break
                start += asked.shape[1]
            found[alias] = Opinion(opinions[expert].predicted, own)
        return found

    def user_tables(self) -> dict[str, tuple[str, Table]]:
        """Learner name -> (the name of its user table in the store, the table)."""
        return {learner: (stored, table) for learner, stored, table in self._tables("user")}

    def item_tables(self) -> list[Table]:
        """All item tables."""
        return [table for _, _, table in self._tables("item")]

    def _tables(self, side: str) -> Iterator[tuple[str, str, Table]]:
        for name, learner in self.by_name.items():
            for table_name, table in learner.tables().items():
                if table.side == side:
                    yield name, f"{LEARNED}/{name}/{table_name}", table

    def attach(self, items: Items) -> None:
        """Connect the learners with the catalogue whose item rows their tables use."""
        self._items = items
        for learner in self.by_name.values():
            if isinstance(learner, Categorised):
                learner.attach(items.categories.words, items.categories.category_sets)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent. Must follow the items and precede the users."""
        assert self._items is not None
        row_of = self._items.row_of
        for _, stored, table in self._tables("item"):
            for key, value in store.scan(stored):
                try:
                    table.load(row_of[key.decode()], value)
                except (KeyError, ValueError):
                    raise BadState(
                        f"row {key.decode()!r} of {stored} does not fit the state: restore a backup"
                    ) from None
        for _, stored, table in self._tables("stream"):
            (row_value,) = store.read(stored, [_STREAM])
            if row_value is not None:
                try:
                    table.load(0, row_value)
                except ValueError:
                    raise BadState(
                        f"the row of {stored} has {len(row_value)} bytes, this streamer writes {table.row_bytes}: use the "
                        "version that made the state, or move `state`, `generations` and `generation` away to learn again from the log"
                    ) from None
        for learner in self.by_name.values():
            if isinstance(learner, Rebuilt):
                learner.restored()

    def changed(self) -> Sequence[Row | Rows]:
        """See protocols.Persistent."""
        assert self._items is not None
        rows: list[Row | Rows] = []
        dirty, keys = in_order([table.touched for table in self.item_tables()], self._items.ids)
        for _, stored, table in self._tables("item"):
            rows.extend(table_rows(stored, table, dirty, keys))
        for _, stored, table in self._tables("stream"):
            if table.touched[0]:
                rows.append(Row(stored, _STREAM, table.values[0].tobytes()))
        return rows

    def committed(self) -> None:
        """See protocols.Persistent."""
        for side in ("item", "stream"):
            for _, _, table in self._tables(side):
                table.clean(table.dirty())


def assemble(names: Sequence[str], champions: Mapping[Kind, str], make: Callable[[str], OnlineLearner]) -> Learners:
    """The learners `names` and their experts, made by `make` in this order, but experts before the learner that combines them."""
    learners: dict[str, OnlineLearner] = {}

    def add(name: str) -> None:
        if name in learners:
            return
        one = make(name)
        if isinstance(one, Composed):
            for expert in one.experts:
                add(_expert_name(expert, champions))
        learners[name] = one

    for name in names:
        add(name)
    return Learners(list(learners.values()), champions)


def _expert_name(alias: str, champions: Mapping[Kind, str]) -> str:
    """The name of an expert; the name of a kind stands for its champion."""
    return next((name for kind, name in champions.items() if kind == alias), alias)
