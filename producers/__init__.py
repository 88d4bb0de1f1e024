"""Sinks for events, each with a module and a line in `SINKS`, and the simulated world.

`Publish`, `streamer publish` and `streamer simulate` use them. A change usually adds a sink (README.md says how) or a feature
of the simulated world.

`kafka` and `http` (sinks), `client` (all calls of the endpoint), `replay` (publishes a stream to a sink), `world` (the simulated
world, with `titles`, and the `oracle` that knows the expectation of its ratings), `simulate` (that world as a stream of events).
"""

if __name__ == "producers":
    raise ImportError("import streamer.producers, not producers")

# Name to "module:Class", imported on first use. (The sink for tests is MemorySink, in streamer.consumers.memory.)
SINKS = {
    "http": "streamer.producers.http:HttpSink",
    "kafka": "streamer.producers.kafka:KafkaSink",
}
