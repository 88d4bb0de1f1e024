"""State stores: rows by table and key, committed together with the offsets that they cover."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from streamer.core.events import Offsets

if TYPE_CHECKING:  # importing tables would import Numba, for their kernel
    from streamer.core.tables import Table


@runtime_checkable
class Stateful(Protocol):
    """A part whose tables the store persists."""

    def tables(self) -> "Mapping[str, Table]":
        """Tables by name, at most one of side "user". Every call returns the same objects."""


class Row(NamedTuple):
    """One row to commit; a value of None deletes."""

    table: str
    key: bytes
    value: bytes | None


class Rows(NamedTuple):
    """Many rows of one table to put: the same as that many `Row`s, at a tenth of the CPU."""

    table: str
    keys: Sequence[bytes]
    values: Sequence[bytes]  # one for each key


class StateStore(Protocol):
    """Rows by table and key, committed together with the offsets that they cover."""

    def read(self, table: str, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The committed values in the order of `keys`, None where there is none."""

    def scan(self, table: str, first: bytes = b"", before: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """The rows of a table with first <= key < before, ascending by key; raises BadState at a damaged row, and never ends early without an error."""

    def commit(self, rows: Iterable[Row | Rows], offsets: Offsets) -> None:
        """Write all rows and offsets in one atomic batch; raises StoreUnavailable when nothing was committed."""


@runtime_checkable
class Persistent(Protocol):
    """A part of the engine with state outside the learners' tables; its changes are committed in the same batch."""

    def restore(self, store: StateStore) -> None:
        """Load what is committed; called once, before the first event. Raises BadState when it cannot be read."""

    def changed(self) -> Sequence[Row | Rows]:
        """The rows changed since the last `committed`; another call returns them again, because a commit may fail."""

    def committed(self) -> None:
        """The rows that `changed` returned last are on disk."""
