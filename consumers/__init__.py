"""Where events come from: one file a source, one line of `SOURCES` each. How to add one is in README.md."""

if __name__ == "consumers":
    raise ImportError("import streamer.consumers, not consumers")

# Name to "module:Class", imported when it is first asked for; `streamer.checks.sources` runs over every line.
SOURCES = {
    "files": "streamer.consumers.files:FileSource",
    "kafka": "streamer.consumers.kafka:KafkaSource",
    "memory": "streamer.consumers.memory:MemorySource",
}
