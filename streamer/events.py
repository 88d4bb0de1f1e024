"""Public name of streamer.core.events, for plug-ins."""

from streamer.core.events import *  # noqa: F403  # every public name, whatever it is
