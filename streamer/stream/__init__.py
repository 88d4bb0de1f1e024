"""From record to row: records are decoded, ids are mapped to rows, the learners learn, and all changes are committed together.

Start reading at `engine`: `Engine.step` is the product in a few lines, and `streamer.app` runs it in a thread. A change usually
adds a kind of event (`decoder`, `encoder`) or something to remember (a `Persistent` part of `memory`).

`engine` (read, learn, commit), `decoder` (bytes to events), `encoder` (events to batches of rows), `ledger` (offsets and the
apply journal), `dedupe` (duplicates by event id), `dead_letters` (rejected events), `learners` (all learners, and which answer),
`memory` (everything that is committed together), `users` (the cache of user rows), `stored_users` (users in the store),
`examination` (which events of a file cannot be used),
`history` (each user's events and seen items; `history_rows` is how they are stored), `profiles` (users' profiles as arrays), `removals` (users who are being
forgotten). Items are in `catalogue`, a room below this one.
"""
