"""streamer: a recommender that learns from every event the moment it arrives.

These names are public, for plug-ins and scripts; everything else may move between versions:

- `streamer.checks`: conformance checks for learners, trainers, offline models and sources;
- `streamer.protocols`, `streamer.batch`, `streamer.embeddings`, `streamer.arrays`, `streamer.events`, `streamer.errors`: the
  types that plug-ins use (defined in `streamer.core`);
- `streamer.kernel`: the decorator that compiles kernels;
- `streamer.rebuild`: rebuilding a state from its journal.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("streamer-recs")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
