"""The JSON Schema of each topic's values, `TOPIC.json`; made from `streamer.events`, held against the decoder by a test."""
