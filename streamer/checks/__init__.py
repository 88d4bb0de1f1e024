"""Conformance checks: behaviour that every learner, trainer, offline model and source must have, ours and plug-ins alike.

`learners`, `trainers`, `offline` (models of the field) and `sources` hold the checks, `batches` the events they use.
A check is a function that raises CheckFailed, with a sentence, if the behaviour is missing.
"""
