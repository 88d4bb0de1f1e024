"""A ring of sessions: runs of distinct clicks of one user each, kept with the items.

Each item has room for 16 sessions of anybody, and a list of the newest sessions with it. The sessions of all items
together are one ring that is filled slot by slot, in turns: the oldest session is the next to be overwritten. A turn ends
where the items end that were clicked so far. Sessions are numbered, and a number tells whether its session is still there,
and in which slot. So nothing depends on users being in memory, an event changes a few rows, and memory grows with the
number of items alone.
A session has at most as many items as a slot; the next one begins with the user's last few clicks. An item that is
clicked again in its session keeps its place.
"""

from streamer.core.arrays import F64, I32, U8
from streamer.core.kernel import kernel
from streamer.models.transitions.transitions import record_click

HOSTED = 16  # sessions for which each item has room
SERIALS = 1 << 31  # a session's number is stored modulo this
COUNT_LARGEST = 1 << 30  # of sessions that were ever in an item's list, from which on half of them are forgotten
NEXT, TURN, TURN_BEFORE, ROWS, LISTED = range(
    3, 8
)  # columns of the stream: sessions begun, and how many of them before this
# turn and before the last one; item rows used; entries ever made in lists
CURRENT, CONTEXT = 0, 1  # columns of the user: the number of the current session, and where the last clicks begin


@kernel
def slot_among(session: int, last: int, turn: int, before: int, slots: int) -> int:
    """The slot of a session: `last` sessions were begun, `turn` of them before this turn and `before` before the last one.

    Slots are filled in turns. What is left of the turn before are the slots that this one has not reached.
    """
    number = last - ((last - session) & (SERIALS - 1))
    slot = number - turn
    if slot < 0 and number - before >= last - turn:
        slot = number - before
    # `slots`: a query may run while the stream's row changes
    return slot if session >= 0 and 0 <= slot < slots and number < last else -1


@kernel
def slot_of(session: int, stream: F64, slots: int) -> int:
    """The slot of a session, one of `slots`, by its stored number; -1 for none and for one that was overwritten."""
    return slot_among(int(session), int(stream[0, NEXT]), int(stream[0, TURN]), int(stream[0, TURN_BEFORE]), slots)


@kernel
def place_in(session: I32, i: int) -> int:
    """The position of i in a session, -1 where it is absent."""
    place = -1
    for n in range(len(session)):
        place = n if session[n] == i else place
    return place


@kernel
def list_session(postings: I32, postings_touched: U8, stream: F64, i: int, session: int) -> None:
    """Put a session at the head of an item's list; the oldest one falls out."""
    size = postings.shape[1] - 1
    if postings[i, 0] >= COUNT_LARGEST:
        postings[i, 0] -= (COUNT_LARGEST >> 1) // size * size
    postings[i, 1 + postings[i, 0] % size] = session
    postings[i, 0] += 1
    postings_touched[i] = 1
    stream[0, LISTED] += 1.0


@kernel
def remove_from_session(
    user: I32,
    postings: I32,
    postings_touched: U8,
    sessions: I32,
    sessions_touched: U8,
    stream: F64,
    i: int,
) -> None:
    """Remove i from its user's current session and last clicks."""
    record_click(user[CONTEXT:], i, -1.0)
    slot = slot_of(user[CURRENT], stream, len(sessions))
    place = place_in(sessions[slot], i) if slot >= 0 else -1
    if place < 0:
        return
    for n in range(place, sessions.shape[1] - 1):
        sessions[slot, n] = sessions[slot, n + 1]
    sessions[slot, sessions.shape[1] - 1] = -1
    sessions_touched[slot // HOSTED] = 1
    for n in range(1, postings.shape[1]):
        if postings[i, n] == user[CURRENT]:
            postings[i, n] = -1
            postings_touched[i] = 1


@kernel
def add_to_session(
    user: I32,
    postings: I32,
    postings_touched: U8,
    sessions: I32,
    sessions_touched: U8,
    stream: F64,
    i: int,
    overlap: int,
) -> None:
    """Add i to its user's current session; begin the next one where that is full or overwritten."""
    length = sessions.shape[1]
    slot = slot_of(user[CURRENT], stream, len(sessions))
    if slot >= 0 and place_in(sessions[slot], i) >= 0:
        return
    at = length
    for n in range(length if slot >= 0 else 0):
        if sessions[slot, n] < 0:
            at = n
            break
    if at == length:
        slot = int(stream[0, NEXT] - stream[0, TURN])
        if slot >= stream[0, ROWS] * HOSTED:
            stream[0, TURN_BEFORE], stream[0, TURN], slot = stream[0, TURN], stream[0, NEXT], 0
        user[CURRENT] = int(stream[0, NEXT]) & (SERIALS - 1)
        stream[0, NEXT] += 1.0
        sessions[slot, :] = -1
        at = 0
        for t in range(overlap - 1, -1, -1):
            c = user[CONTEXT + t]
            if c >= 0 and c != i:
                sessions[slot, at] = c
                list_session(postings, postings_touched, stream, c, user[CURRENT])
                at += 1
    sessions[slot, at] = i
    sessions_touched[slot // HOSTED] = 1
    list_session(postings, postings_touched, stream, i, user[CURRENT])
