"""The periodic retraining: a generation is cut, trained, caught up, gated, swapped in and watched, and can be rolled back.

`renormaliser` runs it in a thread next to the engine; a process of its own trains. A change usually concerns a stage
(`storage.generations.Stage` and `stages`), the gate's criterion (`gate`), or a candidate (`training`).

`renormaliser` (carries out requests, one after another, and what a crash left unfinished), `stages` (what a generation goes
through), `triggers` (the schedule and drift), `training_process` (the process that trains, seen from the one that serves),
`training_job` (what that process does), `training` (tables refitted on a history), `side_information` (catalogue and
profiles for models), `manifest` (the trained files; only this module imports safetensors), `shadow` (a generation that
learns beside the live one), `gate` (is a new generation good enough?), `churn` (how much changed), `rebuild` (a state made again from its journal), `vectors` (item vectors of
another tool as a generation), `status` (what the metrics show of it).
"""
