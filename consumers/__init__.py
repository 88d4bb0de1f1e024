"""Sources of events: each has a module, and a line in `SOURCES`.

`streamer.app` and the commands open a source by its name, and the engine polls it. A change usually adds a source (README.md
says how) or a file format.

`kafka` (a broker; `kafka_watch` is its thread that watches the cluster, `kafka_records` reads records again), `files` (any file or folder: `movielens`, `jsonlines`
with the names of others in `foreign`, `archive`, and tables, delimited text in `delimited/` or `arrow`, which become `columns`;
`opening` unpacks; `id_form` is applied to all of them), `topic` (first records as a stream), `stream` (any `protocols.Stream` as a source), `memory` (records in memory).
"""

if __name__ == "consumers":
    raise ImportError("import streamer.consumers, not consumers")

# Name to "module:Class", imported on first use; `streamer.checks.sources` runs over every line.
SOURCES = {
    "files": "streamer.consumers.files:FileSource",
    "kafka": "streamer.consumers.kafka:KafkaSource",
    "memory": "streamer.consumers.memory:MemorySource",
}
