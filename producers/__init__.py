"""Where events are published, and what is published: one file a sink, one line of `SINKS` each.

`Publish`, `streamer publish` and `streamer simulate` use them. A change usually adds a sink (README.md says how) or something
that the simulated world does.

`kafka` and `http` (sinks), `client` (every call of the endpoint), `replay` (a stream into a sink, at a rate), `world` (the
simulated world, with `titles` and the `oracle` that knows its truth), `simulate` (that world as a stream of events).
"""

if __name__ == "producers":
    raise ImportError("import streamer.producers, not producers")

# Name to "module:Class", imported when it is first asked for. (The sink for tests is MemorySink, beside MemorySource.)
SINKS = {
    "http": "streamer.producers.http:HttpSink",
    "kafka": "streamer.producers.kafka:KafkaSink",
}
