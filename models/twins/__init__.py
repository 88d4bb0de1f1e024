"""A second implementation of every kernel in plain NumPy: short, slow and in float64. Tests compare kernels with it.

A twin takes its learner and a batch, updates the learner's tables and returns the predictions, (n,) float64. It reads
like the equations at the top of the learner's file, and computes in float64 whatever type the tables have. A change of a
kernel must be made here as well, or the tests of the twins fail.

`ratings`, `clicks` (most learners, by what they learn from), `repeats`, `sessions`, `network` and `gru`; `changes` is what a rating takes back,
and `smoothing` what the hybrid's retraining does to one side.
"""
