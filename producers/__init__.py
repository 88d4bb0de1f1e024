"""Placeholder."""

if __name__ == "producers":
    raise ImportError("import streamer.producers, not producers")
