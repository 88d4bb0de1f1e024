"""Where HTTP/2 frames begin and end, so that h2 gets a few at a time and each kind can be counted before it is worked on."""

from dataclasses import dataclass

HEAD_BYTES = 9
MAX_BYTES = 16_384  # of a frame's content; h2 refuses larger ones
A_TURN, A_TURN_BYTES = 8, 65_536  # frames, and bytes, that are passed on together
DATA, HEADERS, RESET, CONTINUATION = 0, 1, 3, 9
END_HEADERS = 0x4


@dataclass(slots=True)
class Frames:
    """Some whole frames at the beginning of what was received."""

    size: int = 0  # bytes
    idle: int = 0  # frames that ask for nothing: all but headers and data with content
    resets: int = 0
    open_head: bool = False  # the last one leaves a block of headers open


def whole_frames(received: bytearray, open_head: bool) -> Frames:
    """The frames that can be passed on now; one that is too large is passed on as it is, for h2 to refuse."""
    found, count, at = Frames(open_head=open_head), 0, 0
    while count < A_TURN and at < A_TURN_BYTES and len(received) - at >= HEAD_BYTES:
        length = received[at] << 16 | received[at + 1] << 8 | received[at + 2]
        kind, flags = received[at + 3], received[at + 4]
        if length > MAX_BYTES:
            found.size = len(received)
            return found
        if len(received) - at < HEAD_BYTES + length:
            break
        if kind in (HEADERS, CONTINUATION):
            found.open_head = not flags & END_HEADERS
        found.resets += kind == RESET
        found.idle += not (kind == HEADERS or (kind == DATA and length > 0))
        at += HEAD_BYTES + length
        count += 1
    found.size = at
    return found
