"""From record to row: records are decoded, their ids become rows, the learners learn, and everything that changed is committed.

`engine` is the front page: `Engine.step` is the product in twelve lines, and `streamer.app` runs it in a thread of its own. A
change usually adds a kind of event (`decoder`, `encoder`) or something to remember (a `Persistent` part of `memory`).

`engine` (read, learn, commit), `decoder` (bytes to events, or a reason why not), `encoder` (events to a batch of rows),
`ledger` (offsets and the apply journal), `dedupe` (event ids), `dead_letters` (bad events), `learners` (all learners, champions
first), `memory` (everything that is committed together), `users` (the cache of user rows), `stored_users` (those in the store),
`history` (what each user did and has seen), `profiles` (what users say of themselves), `removals` (users whose removal was
learned). The items have a room of their own below this one, `catalogue`.
"""
