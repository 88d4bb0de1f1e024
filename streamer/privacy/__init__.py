"""Where a user is forgotten: out of the rows, the log, the archive, every generation and every file.

`streamer forget` and `ForgetUser` start it; the removal itself is learned like an event (`stream.removals` notes it), and a
thread here erases the rest. A change usually adds a place where something about a user may stand.

`forgetting` (works off the removals, in a thread), `eraser` (takes users out of every file), `erasure` (which records and dead letters are a user's, and what is left of them).
"""
