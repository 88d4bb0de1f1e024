"""Tables: rows have initial values determined by their id, keep their values when the table grows, and are stored exactly."""

import numpy as np
import pytest

from streamer.core.tables import Table


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int32)


def test_rows_begin_at_the_start_with_noise_in_the_first_columns_only() -> None:
    table = Table("item", [1.0, 2.0, 3.0], random=2, scale=0.5)
    table.reserve(3)
    table.begin(rows(0, 2), [11, 12])
    assert table.values[0].tobytes() == table.initial(11).tobytes()
    assert table.values[2].tobytes() == table.initial(12).tobytes()
    assert table.values[1].tolist() == [0.0, 0.0, 0.0]
    assert table.values[[0, 2], 2].tolist() == [3.0, 3.0]
    assert (table.values[[0, 2], :2] != [1.0, 2.0]).all()
    assert table.dirty().tolist() == []


def test_without_noise_all_rows_begin_equal() -> None:
    table = Table("user", [1.0, 2.0], dtype=np.float64)
    assert table.initial(5).tolist() == table.initial(6).tolist() == [1.0, 2.0]
    assert table.initial(5) is not table.start


def test_a_row_that_begins_again_has_initial_values() -> None:
    table = Table("user", [1.0, 2.0], random=1, scale=1.0)
    table.reserve(1)
    table.begin(rows(0), [11])
    first = table.values[0].tobytes()
    table.values[0], table.touched[0] = 9.0, 1
    table.begin(rows(0), [11])
    assert (table.values[0].tobytes(), table.dirty().tolist()) == (first, [])


def test_growing_keeps_rows_and_touched_marks() -> None:
    table = Table("item", [0.0])
    table.reserve(1)
    assert len(table.values) == 64
    table.values[:, 0], table.touched[[3, 5]] = np.arange(64), 1
    table.reserve(64)
    assert len(table.values) == 64
    table.reserve(65)
    assert len(table.values) == len(table.touched) == 128
    assert table.values[:64, 0].tolist() == list(range(64))
    assert table.dirty().tolist() == [3, 5]
    table.clean(rows(3))
    assert table.dirty().tolist() == [5]
    assert table.values.flags.c_contiguous


def test_a_stored_row_loads_exactly() -> None:
    table = Table("item", [0.0, 0.0], dtype=np.float64)
    table.reserve(2)
    table.values[0], table.touched[1] = [np.pi, -0.0], 1
    stored = table.values[0].tobytes()
    assert len(stored) == table.row_bytes == 16
    table.load(1, stored)
    assert table.values[1].tobytes() == table.parse(stored).tobytes() == stored
    assert table.dirty().tolist() == []
    with pytest.raises(ValueError, match="15 bytes are not a stored row of 2 numbers"):
        table.load(1, stored[:-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_long_row_is_stored_without_initial_values(dtype: type) -> None:
    table = Table("user", [float(n % 3) for n in range(100)], dtype=dtype)
    table.reserve(4)
    table.begin(rows(0, 1, 2, 3), [0, 1, 2, 3])
    table.values[1, [0, 50, 99]] = [-0.0, 7.0, -7.0]
    table.values[2] = (~table.start.view(np.uint32)).view(dtype)
    table.values[3, 98] = np.nan if dtype is not np.int64 else -1
    words = table.row_bytes // 4
    stored = table.serialise(rows(0, 1, 2, 3))
    assert [len(value) for value in stored[:1]] == [-(-words // 8)]
    assert len(stored[1]) <= -(-words // 8) + 3 * dtype().itemsize  # type: ignore[attr-defined]
    assert stored[2] == table.values[2].tobytes()  # nothing is as it began: whole
    other = Table("user", table.start.tolist(), dtype=dtype)
    other.reserve(4)
    for row, value in enumerate(stored):
        other.load(row, value)
        assert other.parse(value).tobytes() == table.values[row].tobytes()
    assert other.values[:4].tobytes() == table.values[:4].tobytes()
    other.load(0, table.values[1].tobytes())  # as earlier versions stored it
    assert other.values[0].tobytes() == table.values[1].tobytes()
    for broken in (stored[1][:-1], stored[1] + b"\0\0\0\0", b"", b"\xff" * len(stored[1])):
        with pytest.raises(ValueError, match="bytes are not a stored row of 100 numbers"):
            other.load(0, broken)
    assert table.serialise(rows()) == []


def test_a_row_of_an_older_version_gets_the_columns_that_it_lacks() -> None:
    table = Table("stream", [0.0, 7.0, 1.0], dtype=np.float64, added=1)
    table.load(0, np.array([3.0, 4.0]).tobytes())
    assert table.values.tolist() == [[3.0, 4.0, 1.0]]
    with pytest.raises(ValueError, match="8 bytes are not a stored row of 3 numbers"):
        table.load(0, np.array([3.0]).tobytes())


def test_the_stream_has_one_row_from_the_start() -> None:
    table = Table("stream", [1.0, 2.0])
    assert table.values.tolist() == [[1.0, 2.0]]
    assert (table.width, table.row_bytes) == (2, 8)
