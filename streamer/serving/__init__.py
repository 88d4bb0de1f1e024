"""From a query to an answer: retrieve, filter, score and rank what is live, without ever changing it.

`api/` calls `recommend` through `streamer.core.answers`, and the commands call it on a state on the disk. A change usually
adds something that people may ask for, or a stage between the scores and the list.

`recommend` (every query about a user or an item), `rerank` (another order for the first candidates, within the deadline),
`questions` (what to ask a user about), `posterior` (what is believed of a user, in words), `opening` (learners as the settings
name them, or as a state recorded them).
"""
