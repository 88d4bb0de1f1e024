"""The data directory: state in RocksDB, the embedded log, generations, and backups of all of them.

`streamer.stream` commits through it; `app`, `doctor` and the commands open and copy it. A change usually concerns the format
of the state (`state`, with its version) or the error for a damaged disk.

`rocks` (RocksDB), `state` (tables, offsets and the digest), `log` (the embedded log),
`runs` (its rows), `kept` (what it has, read again), `mark` (what it acknowledged), `wal` (RocksDB's write-ahead log, read past damage),
`salvage` (what a damaged log holds whole),
`generations` (their records, and which one is live), `files` (writes that are whole after a crash), `backup` (copy and
restore). The archive is in the folder `archive`, a room that imports from `stream` and so is above it.
"""
