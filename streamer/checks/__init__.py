"""Conformance: named behaviours that every learner and every source keeps, for ours and for plug-in authors.

`learners`, `trainers`, `offline` (models of the field) and `sources` hold the checks, `batches` what they are fed.
A check is a function that raises CheckFailed, with a sentence, when what it is given does not behave.
"""
