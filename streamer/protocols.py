"""Public name of streamer.core.protocols, for plug-ins."""

from streamer.core.protocols import *  # noqa: F403
