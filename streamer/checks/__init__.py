"""Conformance: named behaviours that every learner and every source keeps, for ours and for plug-in authors.

A check is a function that raises CheckFailed, with a sentence, when what it is given does not behave.
"""
