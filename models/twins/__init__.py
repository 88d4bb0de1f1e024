"""Every kernel once more in plain NumPy: slow, short, in float64, and held against the kernel by a test.

A twin takes its learner and a batch, moves the learner's tables and returns what was predicted, (n,) float64. It reads
like the equations on top of the learner's file and computes in float64 whatever the tables hold. A change of a kernel is
made here as well, or the tests of the twins fail.

`ratings`, `clicks` (most learners, by what they learn from), `network` and `gru`.
"""
