"""streamer: a recommender that learns from every event the moment it arrives.

Public names, for plug-ins and scripts; everything else may move between versions:

- `streamer.checks`: conformance checks for learners, trainers, offline models and sources;
- `streamer.protocols`, `streamer.batch`, `streamer.embeddings`, `streamer.arrays`, `streamer.events`, `streamer.errors`: what a
  plug-in is made of (its home is `streamer.core`);
- `streamer.kernel`: how a kernel is compiled;
- `streamer.rebuild`: a state made again from its journal and its archive.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("streamer-recs")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
