"""Where HTTP/2 frames begin and end, so that h2 gets a few at a time and each kind can be counted before it is worked on."""

from dataclasses import dataclass

HEAD_BYTES = 9
MAX_BYTES = 16_384  # of a frame's content; h2 refuses larger ones
MAX_OPEN_BYTES = 32_768  # of a block of headers that goes on; unpacked, h2 allows it half of that
A_TURN, A_TURN_BYTES = 8, 65_536  # frames, and bytes, that are passed on together
DATA, HEADERS, RESET, CONTINUATION = 0, 1, 3, 9
END_HEADERS = 0x4


@dataclass(slots=True)
class Frames:
    """Some whole frames at the beginning of what was received."""

    size: int = 0  # bytes
    idle: int = 0  # frames that ask for nothing: all but headers and data with content
    resets: int = 0
    head_bytes: int = 0  # of the block of headers that the last one leaves open
    too_large: bool = False  # a frame, or a block of headers: h2 would keep all of it before it looks at it


def whole_frames(received: bytearray, head_bytes: int) -> Frames:
    """The frames that can be passed on now, after an open block of headers of `head_bytes`."""
    found, count, at = Frames(head_bytes=head_bytes), 0, 0
    while count < A_TURN and at < A_TURN_BYTES and len(received) - at >= HEAD_BYTES:
        length = received[at] << 16 | received[at + 1] << 8 | received[at + 2]
        kind, flags = received[at + 3], received[at + 4]
        if length > MAX_BYTES:
            found.too_large = True
            break
        if len(received) - at < HEAD_BYTES + length:
            break
        if kind in (HEADERS, CONTINUATION):
            found.head_bytes = 0 if flags & END_HEADERS else found.head_bytes + HEAD_BYTES + length
            found.too_large |= found.head_bytes > MAX_OPEN_BYTES
        found.resets += kind == RESET
        found.idle += not (kind == HEADERS or (kind == DATA and length > 0))
        at += HEAD_BYTES + length
        count += 1
    found.size = at
    return found
