"""What a state keeps: rows by table and key, committed with the offsets that they cover."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from streamer.core.events import Offsets

if TYPE_CHECKING:  # its kernel would bring Numba in
    from streamer.core.tables import Table


@runtime_checkable
class Stateful(Protocol):
    """What the store persists."""

    def tables(self) -> "Mapping[str, Table]":
        """Tables by name; at most one of side "user". Always the same objects."""


class Row(NamedTuple):
    """One row to commit; a value of None deletes."""

    table: str
    key: bytes
    value: bytes | None


class Rows(NamedTuple):
    """Many rows of one table to put, key by value: as so many `Row`s, for a tenth of their CPU."""

    table: str
    keys: Sequence[bytes]
    values: Sequence[bytes]  # one a key


class StateStore(Protocol):
    """Rows by table and key, committed together with the offsets they cover."""

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The committed values, None where there is none."""

    def scan(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table, ascending by key; raises BadState at a damaged one, never ends early in silence."""

    def commit(self, rows: Iterable[Row | Rows], offsets: Offsets) -> None:
        """One atomic batch; raises StoreUnavailable when nothing was committed."""


@runtime_checkable
class Persistent(Protocol):
    """A part of the engine with state outside the learners' tables: what it changed goes into the one write batch."""

    def restore(self, store: StateStore) -> None:
        """Take up what is committed; called once, before the first event. Raises BadState when it cannot be read."""

    def changed(self) -> Sequence[Row | Rows]:
        """The rows that changed since the last `committed`; calling it again gives them again (a commit may fail)."""

    def committed(self) -> None:
        """What `changed` gave last is on disk."""
