"""The hybrid's steps for one event, each against a Kalman update that is done by hand."""

import numpy as np
import pytest

from streamer.models.hybrid.kernel import move_item, move_user, record_event
from streamer.models.hybrid.rows import FIXED, Model, lowest_bit, session_left

HOUR_MS = 3_600_000.0
# One latent weight and no categories: rows are as short as they can be.
MODEL = Model(*[0 if name in ("dim", "categories", "known") else 0.0 for name in Model._fields])._replace(
    dim=1, fade=0.9, gap_ms=1000.0, carry=0.5, carry_ms=HOUR_MS
)


def test_an_error_moves_an_item_and_makes_it_surer() -> None:
    """The item's vector meets a weight of 2, so a variance of 1 is one of 4 of the 10 that the rating has."""
    user = np.array([0.0, 0.0, 0.0, 0.0, 2.0], dtype=np.float32)
    item = np.array([0.0, 1.0, 0.0, 1.0, 3.0])  # q, its variance, b, its variance, ratings
    assert len(user) == FIXED + 1
    move_item(user, item, MODEL, 0.5, 10.0)
    assert item.tolist() == pytest.approx([0.1, 1 - 4 / 10, 0.05, 1 - 1 / 10, 4.0])


def test_an_error_moves_a_user_and_makes_them_surer() -> None:
    """Two weights of variance 1, of which the item meets the first alone."""
    user = np.array([0.0, 0.0, 1.0, 0.0, 1.0])  # w, then P row after row: 1; 0, 1
    move_user(user, 2, 0.5, 4.0, np.array([1.0, 0.0]), np.empty(3))
    assert user.tolist() == pytest.approx([0.125, 0.0, 1 - 1 / 4, 0.0, 1.0])


def test_a_session_ends_after_its_gap_and_not_by_a_late_event_and_passes_on_a_part_of_its_bias() -> None:
    user = np.zeros(4)  # a weight; the time in two parts, and the events
    assert session_left(user, HOUR_MS, MODEL) == 0.0  # there was none yet
    record_event(user, HOUR_MS)
    record_event(user, HOUR_MS - 5000.0)  # late: the latest time stays
    left = {ms: session_left(user, HOUR_MS + ms, MODEL) for ms in (-5000.0, 0.0, 1000.0)}
    assert left == {-5000.0: 0.9, 0.0: 0.9, 1000.0: 0.9}
    assert session_left(user, HOUR_MS + 1001.0, MODEL) == pytest.approx(0.5, rel=1e-3)
    assert session_left(user, 2 * HOUR_MS, MODEL) == pytest.approx(0.5 / np.e)
    assert user[-1] == 2.0


def test_the_lowest_of_a_words_bits_is_found() -> None:
    words = [1 << number | (1 << 63) | ((1 << 60) if number < 60 else 0) for number in range(64)]
    assert [lowest_bit(np.uint64(word)) for word in words] == list(range(64))
