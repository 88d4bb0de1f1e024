"""Public name of streamer.core.kernel, for plug-ins."""

from streamer.core.kernel import *  # noqa: F403  # every public name, whatever it is
