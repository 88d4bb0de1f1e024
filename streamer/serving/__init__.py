"""From a query to an answer: retrieve, filter, score and rank with the live tables, without changing them.

`api/` calls `recommend` through `streamer.core.answers`; commands call it on a state on disk. A change usually adds a kind
of query, or a stage between the scores and the list.

`recommend` (every query about a user or an item), `rerank` (another model reorders the first candidates, within a deadline),
`questions` (which items to ask a user about), `posterior` (what the learner believes about a user, in words),
`opening` (makes the learners that the settings name, or those that a state was made with).
"""
