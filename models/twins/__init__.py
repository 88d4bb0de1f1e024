"""Every kernel once more in plain NumPy: slow, short, in float64, and held against the kernel by a test.

`twins` (learners of ratings and clicks), `network` and `gru`. A change of a kernel is made here as well, or the tests of the twins fail.
"""
