"""Public name of streamer.renormalise.rebuild: a state made again from its journal and archive."""

from streamer.renormalise.rebuild import *  # noqa: F403  # every public name, whatever it is
from streamer.renormalise.rebuild import install_generation as graft  # noqa: F401  # its former name
