"""Public name of streamer.core.tables, for plug-ins."""

from streamer.core.tables import *  # noqa: F403  # every public name, whatever it is
from streamer.core.tables import evenly_spaced as spaced  # noqa: F401  # its former name
