"""What `streamer serve` imports, for the process that forked.py forks. It opens nothing and starts no thread, as neither survives a fork."""

import streamer.api.router
import streamer.cli.serve
import streamer.compile
import streamer.core.settings
import streamer.serve
import streamer.storage.archive.parquet

streamer.compile.learner_names(streamer.core.settings.Settings())  # the first call of a kernel loads half of Numba
