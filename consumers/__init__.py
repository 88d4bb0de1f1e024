"""Placeholder."""

if __name__ == "consumers":
    raise ImportError("import streamer.consumers, not consumers")
