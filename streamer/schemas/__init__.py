"""The JSON Schema of each topic's values, `TOPIC.json`; made from `streamer.core.events`, held against the decoder by a test; `generate` writes them."""
