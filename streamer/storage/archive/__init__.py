"""The archive: every accepted event as Parquet, exactly once and in order, for retraining and for other tools.

A thread in `archiver` writes it from the log or from Kafka. Retraining and `consumers/archive.py` read it, and forgetting a
user rewrites it (`Archive.commit` hides the rows, `Archive.purge` rewrites the files). A change usually adds a
column (`rows`, `records`, `parquet`) or concerns the offsets that files cover (`manifest`).

`archive` (the archive as a whole), `archiver` (the thread that writes it), `rows` (records to columns), `records` (columns to
records), `parquet` (the files; the only one of these that imports pyarrow), `manifest` (the list of files, and the offsets that
they cover), `merging` (which small files become one), `repair` (what becomes of damaged files), `refetch` (their rows, fetched
again from the log or from Kafka), `removed` (which of these are of users who were removed).
"""
