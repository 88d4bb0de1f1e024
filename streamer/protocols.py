"""Public name of streamer.core.protocols, for plug-ins."""

from streamer.core.protocols import *  # noqa: F403
from streamer.core.protocols import ItemSets as Alike  # noqa: F401  # its former name
