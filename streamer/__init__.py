"""streamer: a recommender that learns from every event the moment it arrives."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("streamer-recs")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
