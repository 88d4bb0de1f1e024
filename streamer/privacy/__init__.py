"""Forgetting users: erases their data from rows, log, archive, all generations and all files.

`streamer forget` and `ForgetUser` start it. The removal itself is learned like an event (`stream.removals` records it), and a
thread in this room erases the rest. A change usually adds a place where data about a user may be.

`forgetting` (publishes removals, and processes them in a thread), `eraser` (erases users from every file), `erasure` (which
records and dead letters are about a user, and what remains of them).
"""
