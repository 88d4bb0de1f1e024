"""Drops duplicates: events whose `event_id` is among the newest `window` ids of their partition. Time plays no part.

Ids are kept as 128-bit hashes in a ring buffer for each partition, found by an open-addressing hash table of ring positions,
and committed in blocks of 256, so that one event rewrites one block. Memory: 24 to 32 bytes for each id remembered.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from streamer.core.arrays import I32, U64, Bool
from streamer.core.events import TopicPartition
from streamer.core.kernel import kernel
from streamer.core.protocols import Row, StateStore

BLOCK_IDS = 256


@kernel
def _insert(ring: U64, slots: I32, at: int) -> None:
    mask = slots.shape[0] - 1
    slot = np.int64(ring[at, 0] & np.uint64(mask))
    while slots[slot] >= 0:
        slot = (slot + 1) & mask
    slots[slot] = at


@kernel
def _insert_all(ring: U64, slots: I32, count: int) -> None:
    for at in range(count):
        _insert(ring, slots, at)


@kernel
def _find(ring: U64, slots: I32, high: np.uint64, low: np.uint64) -> int:
    mask = slots.shape[0] - 1
    slot = np.int64(high & np.uint64(mask))
    while slots[slot] >= 0:
        at = slots[slot]
        if ring[at, 0] == high and ring[at, 1] == low:
            return int(slot)
        slot = (slot + 1) & mask
    return -1


@kernel
def _remove(ring: U64, slots: I32, slot: int) -> None:
    mask = slots.shape[0] - 1
    slots[slot] = -1
    after = (slot + 1) & mask
    while slots[after] >= 0:  # move back entries that were probed past the hole
        home = np.int64(ring[slots[after], 0] & np.uint64(mask))
        if ((after - home) & mask) >= ((after - slot) & mask):
            slots[slot] = slots[after]
            slots[after] = -1
            slot = after
        after = (after + 1) & mask


@kernel
def _admit(hashes: U64, ring: U64, slots: I32, count: int, window: int, new: Bool) -> int:
    for k in range(hashes.shape[0]):
        if _find(ring, slots, hashes[k, 0], hashes[k, 1]) >= 0:
            new[k] = False
            continue
        new[k] = True
        at = count % window
        if count >= window:
            _remove(ring, slots, _find(ring, slots, ring[at, 0], ring[at, 1]))
        ring[at, 0], ring[at, 1] = hashes[k, 0], hashes[k, 1]
        _insert(ring, slots, at)
        count += 1
    return count


@kernel
def _blank(hashes: U64, ring: U64, slots: I32, positions: I32) -> int:
    found = 0
    for k in range(hashes.shape[0]):
        slot = _find(ring, slots, hashes[k, 0], hashes[k, 1])
        if slot < 0:
            continue
        at = slots[slot]
        _remove(ring, slots, slot)
        ring[at, 0], ring[at, 1] = at, 0  # an unused id: the position itself, so that all differ
        _insert(ring, slots, at)
        positions[found] = at
        found += 1
    return found


class _Ring:
    def __init__(self, window: int) -> None:
        self.window = window
        self.count, self.committed = 0, 0
        self.ids: U64 = np.zeros((0, 2), dtype=np.uint64)
        self.slots: I32 = np.full(0, -1, dtype=np.int32)
        self.blanked: set[int] = set()  # blocks changed by `forget`, without new ids

    def reserve(self, more: int) -> None:
        wanted = min(self.window, self.count + more)
        if wanted <= len(self.ids):
            return
        grown = np.zeros((min(self.window, max(wanted, 2 * len(self.ids), BLOCK_IDS)), 2), dtype=np.uint64)
        grown[: len(self.ids)] = self.ids
        self.ids = grown
        self.slots = np.full(1 << (2 * len(grown)).bit_length(), -1, dtype=np.int32)
        _insert_all(self.ids, self.slots, min(self.count, self.window))


class Dedupe:
    """The newest event ids of each partition; protocols.Persistent."""

    def __init__(self, window: int) -> None:
        """Remembers `window` ids for each partition; 0 turns it off."""
        self._window = window
        self._rings: dict[TopicPartition, _Ring] = {}

    def admit(self, at: TopicPartition, event_ids: Sequence[str]) -> Bool:
        """Add ids in order; (n,) True for those that were not among the newest. Cost: about 1 us an id."""
        new = np.ones(len(event_ids), dtype=np.bool_)
        if self._window and len(event_ids):
            ring = self._rings.setdefault(at, _Ring(self._window))
            ring.reserve(len(event_ids))
            ring.count = _admit(_hashes(event_ids), ring.ids, ring.slots, ring.count, ring.window, new)
        return new

    def forget(self, at: TopicPartition, event_ids: Sequence[str]) -> int:
        """Replace these ids by unused ones; returns how many were remembered. Call it in the engine's thread, between two steps."""
        ring = self._rings.get(at)
        if ring is None or not event_ids:
            return 0
        positions = np.empty(len(event_ids), dtype=np.int32)
        found = _blank(_hashes(event_ids), ring.ids, ring.slots, positions)
        ring.blanked.update((positions[:found] // BLOCK_IDS).tolist())
        return int(found)

    def restore(self, store: StateStore) -> None:
        """See protocols.Persistent."""
        counts, blocks = {}, []
        for key, value in store.scan("dedupe"):
            name, _, block = key.partition(b"\0")
            topic, _, partition = name.decode().rpartition("/")
            at = TopicPartition(topic, int(partition))
            if block:
                blocks.append((at, int.from_bytes(block, "big"), value))
            else:
                counts[at] = int.from_bytes(value, "little")
        for at, count in counts.items():
            ring = self._rings[at] = _Ring(self._window)
            ring.reserve(count)
            ring.count = ring.committed = count
        for at, number, stored in blocks:
            ids = np.frombuffer(stored, dtype=np.uint64).reshape(-1, 2)
            self._rings[at].ids[number * BLOCK_IDS : number * BLOCK_IDS + len(ids)] = ids
        for ring in self._rings.values():
            _insert_all(ring.ids, ring.slots, min(ring.count, ring.window))

    def changed(self) -> Sequence[Row]:
        """See protocols.Persistent."""
        rows = []
        for at, ring in self._rings.items():
            if ring.count == ring.committed and not ring.blanked:
                continue
            name = f"{at.topic}/{at.partition}".encode() + b"\0"
            rows.append(Row("dedupe", name, ring.count.to_bytes(8, "little")))
            oldest = max(ring.committed, ring.count - ring.window)
            blocks_at = np.arange(oldest, ring.count) % ring.window // BLOCK_IDS
            for block in sorted({*np.unique(blocks_at).tolist(), *ring.blanked}):
                stop = min((block + 1) * BLOCK_IDS, ring.window, ring.count)
                rows.append(
                    Row("dedupe", name + block.to_bytes(4, "big"), ring.ids[block * BLOCK_IDS : stop].tobytes())
                )
        return rows

    def committed(self) -> None:
        """See protocols.Persistent."""
        for ring in self._rings.values():
            ring.committed = ring.count
            ring.blanked.clear()


def _hashes(event_ids: Sequence[str]) -> U64:
    """128-bit hashes (n, 2)."""
    digests = b"".join(hashlib.blake2b(event.encode(), digest_size=16).digest() for event in event_ids)
    return np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
