"""Public name of streamer.core.batch, for plug-ins."""

from streamer.core.batch import *  # noqa: F403  # every public name, whatever it is
