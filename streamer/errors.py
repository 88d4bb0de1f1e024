"""Public name of streamer.core.errors, for plug-ins."""

from streamer.core.errors import *  # noqa: F403  # every public name, whatever it is
