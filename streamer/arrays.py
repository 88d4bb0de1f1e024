"""Public name of streamer.core.arrays, for plug-ins."""

from streamer.core.arrays import *  # noqa: F403  # every public name, whatever it is
