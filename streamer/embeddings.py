"""Public name of streamer.core.tables, for plug-ins."""

from streamer.core.tables import *  # noqa: F403
