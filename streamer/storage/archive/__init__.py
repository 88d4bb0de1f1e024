"""The archive: every accepted event as Parquet, once and in order, for retraining and for other tools.

A thread of `archiver` fills it from the log or from Kafka; retraining, `consumers/archive.py` and forgetting read and rewrite
it. A change usually adds a column (`rows`, `parquet`) or concerns which offsets a file covers (`manifest`).

`archive` (reading and rewriting it as a whole), `archiver` (filling it), `rows` (records to columns), `parquet` (the
files; pyarrow is known here only), `manifest` (the list of files and the offsets that they cover).
"""
