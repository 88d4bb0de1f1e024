"""Where state is kept: RocksDB, the embedded log, generations on the disk, and backups of all of it.

`streamer.stream` commits through it, and `app`, `doctor` and the commands open and copy it. A change usually concerns the
format of the state (`state`, with its version) or what a damaged disk is answered with.

`rocks` (RocksDB, known here only), `state` (tables, offsets and the digest), `log` (the embedded log), `generations` (which
there are, their records, and which one is live), `files` (writes that survive a crash whole), `backup` (copy and restore).
The archive has a room of its own below this one.
"""
