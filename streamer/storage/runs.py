"""The rows of the embedded log's database.

| key | value |
|---|---|
| `r` + offset, 8 bytes | a run: the records from this offset on, as msgpack |
| `p` + SHA-256 of a file | the next row of the file to replay |
| `w` | how often records were rewritten |
| `m` | nothing: the log has a mark, see streamer.storage.mark |
"""

from collections.abc import Sequence

import msgspec

from streamer.core.events import Record

RUN_RECORDS = 500  # most records in one row
RUNS, RUNS_END = b"r", b"s"
REPLAYS, ERASURES, MARKED = b"p", b"w", b"m"
Row = tuple[bytes, bytes]  # key and value
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(list[Record]).decode


def key_of(offset: int) -> bytes:
    """The key of the run that begins at `offset`."""
    return RUNS + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """The first offset of the run with this key."""
    return int.from_bytes(key[1:], "big")


def count(value: bytes) -> int:
    """How many records a run has: the length that msgpack writes first."""
    if value[0] & 0xF0 == 0x90:
        return value[0] & 0x0F
    return int.from_bytes(value[1:3] if value[0] == 0xDC else value[1:5], "big")


def rows_of(records: Sequence[Record]) -> list[Row]:
    """The rows that store records with consecutive offsets."""
    runs = [records[start : start + RUN_RECORDS] for start in range(0, len(records), RUN_RECORDS)]
    return [(key_of(run[0].offset), encode(run)) for run in runs]


def replay_row(sha256: str, next_row: int) -> Row:
    """The row that says where the replay of a file continues."""
    return REPLAYS + sha256.encode(), next_row.to_bytes(8, "big")
