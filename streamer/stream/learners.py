"""The learners in their order, champions and shadows, each learning every batch from tables named after it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from streamer.core.arrays import F32, I32
from streamer.core.batch import Batch, Opinion
from streamer.core.errors import BadSettings, BadState, StreamerError
from streamer.core.protocols import (
    Categorised,
    Composed,
    Conditioned,
    Kind,
    OnlineLearner,
    Probed,
    Rebuilt,
    Row,
    Rows,
    StateStore,
)
from streamer.core.tables import Table
from streamer.storage.state import LEARNED
from streamer.stream.catalogue.items import Items
from streamer.stream.users import table_rows

_STREAM = b"stream"
_NOTHING: F32 = np.empty((0, 0), dtype=np.float32)


class Learners:
    """All learners; protocols.Persistent for their item and stream tables (user tables belong to the user cache)."""

    def __init__(self, learners: Sequence[OnlineLearner], champions: Mapping[Kind, str]) -> None:
        """`champions` names the one that answers for each kind unless another is promoted: what the settings say, and what
        composed learners mean by a kind. Raises BadSettings when it learns from the other kind.

        Experts stand before the learners that are made of them.
        """
        self.by_name = {learner.name: learner for learner in learners}
        self.champions: dict[Kind, str] = dict(champions)
        self.promoted: Mapping[Kind, str] = {}  # replaced as a whole: queries read it from other threads
        for kind, name in champions.items():
            if self.by_name[name].kind != kind:
                raise BadSettings(
                    f"{name!r} learns from {self.by_name[name].kind}, it cannot be the champion for {kind}"
                )
        self._items: Items | None = None
        self.experts = {name: self._compose(made) for name, made in self.by_name.items() if isinstance(made, Composed)}

    def _compose(self, composed: Composed) -> dict[str, str]:
        """Give it its experts; what it calls them -> their names."""
        names = {called: _expert(called, self.champions) for called in composed.experts}
        composed.compose({called: self.by_name[name] for called, name in names.items()})
        return names

    def champion(self, kind: Kind) -> OnlineLearner:
        """The one that answers: promoted, or named by the settings."""
        return self.by_name[self.promoted.get(kind) or self.champions[kind]]

    def answering(self, *also: str) -> set[str]:
        """The champions, those named (empty: nobody), and the experts of both: all others are challengers."""
        found, left = set[str](), [*also, *(self.champion(kind).name for kind in self.champions)]
        while left:
            found.add(name := left.pop())
            left += self.experts.get(name, {}).values()
        return found

    def rater_with_belief(self) -> OnlineLearner:
        """The champion for ratings; or, where it cannot be told things (Conditioned), the first of its experts that can."""
        champion = self.champion("ratings")
        named = [self.by_name[name] for name in self.experts.get(champion.name, {}).values()]
        return next((made for made in (champion, *named) if isinstance(made, Conditioned)), champion)

    def running(self, name: str) -> OnlineLearner:
        """The learner of that name; raises StreamerError for one that does not run."""
        if name not in self.by_name:
            raise StreamerError(
                f"no learner {name!r} runs here, only {', '.join(self.by_name)}: start with --shadow {name}, and promote "
                "it when it has learned"
            )
        return self.by_name[name]

    def promote(self, name: str) -> None:
        """Let a learner answer for its kind from now on; nothing that is learned changes. Raises StreamerError as `running` does."""
        kind = self.running(name).kind
        others = {of: promoted for of, promoted in self.promoted.items() if of != kind}
        self.promoted = others if name == self.champions.get(kind) else {**others, kind: name}

    def learn(self, batch: Batch) -> Mapping[str, F32]:
        """What each predicted for each event before learning it, (n,), by name; ratings clipped to the range seen before."""
        if not len(batch):
            return {name: np.empty(0, dtype=np.float32) for name in self.by_name}
        return {
            name: said.predicted.clip(batch.lows, batch.highs) if made.kind == "ratings" else said.predicted
            for (name, said), made in zip(self.opinions(batch), self.by_name.values(), strict=True)
        }

    def opinions(self, batch: Batch) -> Iterator[tuple[str, Opinion]]:
        """Each learner learns when its turn comes: its name, and what it said of the batch, not clipped."""
        asked = {name: made.probes(batch) for name, made in self.by_name.items() if isinstance(made, Composed)}
        probes = self._probes(asked)
        said: dict[str, Opinion] = {}
        for name, made in self.by_name.items():
            if isinstance(made, Probed) and name in probes:
                wanted = list(probes[name].values())
                said[name] = made.learn_probed(batch, wanted[0] if len(wanted) == 1 else np.hstack(wanted))
            elif isinstance(made, Composed):
                predicted = made.learn(replace(batch, probes=asked[name], opinions=self._heard(name, probes, said)))
                said[name] = Opinion(predicted, _NOTHING)
            else:
                said[name] = Opinion(made.learn(batch), _NOTHING)
            yield name, said[name]

    def _probes(self, asked: Mapping[str, I32]) -> dict[str, dict[str, I32]]:
        """By expert, then by who asks it: item rows (n, m)."""
        probes: dict[str, dict[str, I32]] = {}
        for name, rows in asked.items():
            if rows.shape[1]:
                for expert in self.experts[name].values():
                    probes.setdefault(expert, {})[name] = rows
        return probes

    def _heard(self, name: str, probes: dict[str, dict[str, I32]], said: Mapping[str, Opinion]) -> dict[str, Opinion]:
        """What the experts of `name` said, with the scores that it asked for."""
        heard = {}
        for called, expert in self.experts[name].items():
            start, own = 0, said[expert].scores
            for asker, asked in probes.get(expert, {}).items():
                if asker == name and own.shape[1]:
                    own = own[:, start : start + asked.shape[1]]
                    break
                start += asked.shape[1]
            heard[called] = Opinion(said[expert].predicted, own)
        return heard

    def user_tables(self) -> dict[str, tuple[str, Table]]:
        """Learner name -> (its name in the store, its user table)."""
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
        """Name the items whose rows the item tables hold."""
        self._items = items
        for learner in self.by_name.values():
            if isinstance(learner, Categorised):
                learner.attach(items.categories.words, items.categories.category_sets)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent; after the items, before the users."""
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
                if len(row_value) != table.row_bytes:
                    raise BadState(
                        f"the row of {stored} has {len(row_value)} bytes, this streamer writes {table.row_bytes}: use the "
                        "streamer that made the state, or move `state`, `generations` and `generation` away to learn again from the log"
                    )
                table.load(0, row_value)
        for learner in self.by_name.values():
            if isinstance(learner, Rebuilt):
                learner.restored()

    def changed(self) -> Sequence[Row | Rows]:
        """See protocols.Persistent."""
        assert self._items is not None
        rows: list[Row | Rows] = []
        for _, stored, table in self._tables("item"):
            rows.extend(table_rows(stored, table, self._items.ids))
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
    """The learners `names`, made by `make` in this order, each after the experts that it is made of."""
    made: dict[str, OnlineLearner] = {}

    def add(name: str) -> None:
        if name in made:
            return
        one = make(name)
        if isinstance(one, Composed):
            for expert in one.experts:
                add(_expert(expert, champions))
        made[name] = one

    for name in names:
        add(name)
    return Learners(list(made.values()), champions)


def _expert(called: str, champions: Mapping[Kind, str]) -> str:
    """The name of the learner that an expert is called by: its own, or that of a kind for its champion."""
    return next((name for kind, name in champions.items() if kind == called), called)
