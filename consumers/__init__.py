"""Where events come from: one file a source, one line of `SOURCES` each.

`streamer.app` and the commands open a source by its name, and the engine polls it. A change usually adds a source (README.md
says how) or a shape of file that people bring.

`kafka` (a broker, with `kafka_watch` for what can go wrong with it), `files` (any file or folder: `movielens`, `delimited`,
`jsonlines`, `archive`, by way of `columns` and `rows`), `stream` (a stream of known rows as a source), `memory` (records in memory).
"""

if __name__ == "consumers":
    raise ImportError("import streamer.consumers, not consumers")

# Name to "module:Class", imported when it is first asked for; `streamer.checks.sources` runs over every line.
SOURCES = {
    "files": "streamer.consumers.files:FileSource",
    "kafka": "streamer.consumers.kafka:KafkaSource",
    "memory": "streamer.consumers.memory:MemorySource",
}
