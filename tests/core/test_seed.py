"""Reproducible randomness: keys, and numbers drawn from them."""

import hashlib

import numpy as np

from streamer.core.events import LOG, TopicPartition
from streamer.core.seed import event_keys, fill_normal, id_key, mix64, sequence_key


def test_numbers_are_those_of_splitmix64() -> None:
    """The published sequence for the seed 1234567."""
    assert [int(mix64(np.uint64(1234567), n)) for n in range(5)] == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def test_a_key_depends_on_seed_side_and_id() -> None:
    digest = hashlib.blake2b("1/user/ü".encode(), digest_size=8).digest()
    assert id_key(1, "user", "ü") == int.from_bytes(digest, "little")
    keys = {id_key(seed, side, one) for seed in (1, 2) for side in ("user", "item") for one in ("a", "b", "/a")}
    assert len(keys) == 12


def test_an_events_key_depends_on_its_offset_and_not_on_the_batch() -> None:
    key = sequence_key(1, LOG)
    offsets = np.array([0, 1, 2, 10**15, 5], dtype=np.int64)
    together = event_keys(key, offsets)
    assert together.tolist() == [int(event_keys(key, offsets[n : n + 1])[0]) for n in range(5)]
    assert len(set(together.tolist())) == 5
    of_each = event_keys(np.array([key, sequence_key(1, TopicPartition("a", 0))], dtype=np.uint64), offsets[:2])
    assert of_each[0] == together[0]
    assert of_each[1] != together[1]


def test_sequences_and_seeds_have_keys_of_their_own() -> None:
    sequences = [LOG, TopicPartition("ratings", 0), TopicPartition("ratings", 1), TopicPartition("clicks", 0)]
    assert len({sequence_key(seed, at) for seed in (1, 2) for at in sequences}) == 8


def test_normals_are_normal_and_depend_on_their_key_alone() -> None:
    keys = np.array([id_key(1, "user", f"u{n}") for n in range(2000)], dtype=np.uint64)
    drawn = np.empty((2000, 8))
    fill_normal(keys, drawn)
    alone = np.empty((1, 8))
    fill_normal(keys[17:18], alone)
    assert alone[0].tobytes() == drawn[17].tobytes()
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(8)).max() < 0.1
