"""Where events are published, and what is published: one file a sink, one line of `SINKS` each. How to add one is in README.md."""

if __name__ == "producers":
    raise ImportError("import streamer.producers, not producers")

# Name to "module:Class", imported when it is first asked for. (The sink for tests is MemorySink, beside MemorySource.)
SINKS = {
    "http": "streamer.producers.http:HttpSink",
    "kafka": "streamer.producers.kafka:KafkaSink",
}
