"""Learners of clicks that remember whole sessions.

`neighbours` scores by them; `ring` keeps them, in tables of items.
"""
