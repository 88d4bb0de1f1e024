"""What `streamer serve` imports, for the process that forked.py forks. It opens nothing and starts no thread, as neither survives a fork."""

import streamer.cli.serve
import streamer.compile
import streamer.core.seed
import streamer.serve

streamer.core.seed.id_key(1, "user", "u")  # the first call of a kernel loads half of Numba
