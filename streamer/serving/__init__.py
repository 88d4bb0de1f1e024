"""From a query to an answer: retrieve, filter, score and rank with the live tables, without changing them.

`api/` calls `recommend` through `streamer.core.answers`; commands call it on a state on disk. A change usually adds a kind
of query, or a stage between the scores and the list.

`recommend` (every query about a user or an item), `rerank` (another model reorders the first candidates, within a deadline),
`questions` (which items to ask a user about), `posterior` (what is believed of a user, in words), `opening` (learners as the
settings name them, or as a state recorded them).
"""
