"""Makes Python look for reference cycles less often.

Learning makes thousands of small objects a batch, and reference counting frees them all. By default Python looks through all
living objects after every 700 new ones, which took 8% of the CPU of `streamer evaluate` (medians of five, by turns) and found nothing.
"""

import gc

ALLOCATIONS = 100_000  # new objects, less those freed, before Python looks for cycles again


def collect_seldom() -> None:
    """Set the process's garbage collector; objects alive now are never looked at again. Call it once, after all imports."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, 10, 10)
