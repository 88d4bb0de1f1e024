"""Makes Python look for reference cycles less often.

By default Python looks through the living objects after every 700 new ones. Imports make many objects, nearly all of which stay.
Learning makes thousands of small objects a batch, and reference counting frees them all: looking for cycles took 8% of the CPU of
`streamer evaluate` (medians of five, by turns) and found nothing.
"""

import ctypes
import gc

TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
ALLOCATIONS = 100_000  # new objects, less those freed, before Python looks for cycles again


def collect_seldom() -> None:
    """Set the process's garbage collector. Call it once, before most imports."""
    gc.set_threshold(ALLOCATIONS, 10, 10)


def leave_living_objects_alone() -> None:
    """Objects alive now are never looked at again. Call it once, after all imports."""
    gc.freeze()


def give_back_memory() -> None:
    """Give memory that is free back to the system, where the C library can. Cost: some milliseconds; call it after a peak."""
    if TRIM is not None:
        TRIM(0)
