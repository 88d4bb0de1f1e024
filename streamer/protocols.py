"""Public name of streamer.core.protocols, for plug-ins."""

from streamer.core.protocols import *  # noqa: F403  # every public name, whatever it is
from streamer.core.protocols import ItemSets as Alike  # noqa: F401  # its former name
