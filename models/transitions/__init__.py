"""Transitions: which item is clicked after which, in a bounded list for each item.

`transitions` is the learner with its equations and kernels, `lists` the lists that they read and write. A change of what is
counted starts in `transitions.learn_transitions`.
"""
