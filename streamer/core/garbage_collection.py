"""When Python looks for cycles of garbage: seldom.

Learning makes thousands of small objects a batch, all of which go by reference count; looking through everything that lives
after every 700 of them took 8% of the CPU of `streamer evaluate` (medians of five, by turns) and found nothing.
"""

import gc

CREATED = 100_000  # objects that may come to be, less those that went, before one looks


def collect_seldom() -> None:
    """For the process: what lives now is taken to stay. Called once, when the modules and kernels are loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(CREATED, 10, 10)
