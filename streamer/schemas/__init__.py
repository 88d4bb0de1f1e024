"""The JSON Schema of each topic's values, `TOPIC.json`: `generate` writes them from `streamer.core.events`."""
