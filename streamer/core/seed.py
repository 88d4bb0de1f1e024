"""Reproducible randomness: the same log gives the same bytes, however it is split into batches.

A row's first values are a function of (seed, side, id), an event's negatives of (seed, topic, partition, offset).
The generator is counter-based: draw n of a key is `mix64(key, n)`, so there is no state to store or restore.

Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators, OOPSLA (SplitMix64's finaliser).
"""

import hashlib

import numpy as np

from streamer.core.arrays import F64, I64, U64
from streamer.core.events import TopicPartition
from streamer.core.kernel import kernel


def id_key(seed: int, side: str, external_id: str) -> int:
    """The 64-bit key of a user's or item's first values."""
    digest = hashlib.blake2b(f"{seed}/{side}/{external_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def sequence_key(seed: int, sequence: TopicPartition) -> int:
    """The 64-bit key of one topic partition, from which `event_keys` derives one key for each event."""
    return id_key(seed, "sequence", f"{sequence.topic}/{sequence.partition}")


def event_keys(keys: int | U64, offsets: I64) -> U64:
    """One key for each event, (n,), from its sequence's key and its offset. Cost: O(n), vectorised."""
    x = np.asarray(keys, dtype=np.uint64) + offsets.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


@kernel
def mix64(key: np.uint64, counter: int) -> np.uint64:
    """The counter-th 64 random bits of `key`."""
    x = np.uint64(key) + np.uint64(counter + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@kernel
def fill_normal(keys: U64, out: F64) -> None:
    """Fill each row of `out` (n, width) with standard normals drawn from its key in `keys` (n,), by Box and Muller."""
    for k in range(out.shape[0]):
        for j in range(out.shape[1]):
            u = (np.float64(mix64(keys[k], 2 * j) >> np.uint64(11)) + 1.0) / 9007199254740993.0  # in (0, 1]
            v = np.float64(mix64(keys[k], 2 * j + 1) >> np.uint64(11)) / 9007199254740992.0
            out[k, j] = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
