"""What `streamer serve` imports, for the process that forked.py forks. It opens nothing and starts no thread, as neither survives a
fork: so it does not import pyarrow, which starts one."""

import streamer.api.router
import streamer.cli.serve
import streamer.compile
import streamer.core.settings
import streamer.serve

streamer.compile.learner_names(streamer.core.settings.Settings())  # the first call of a kernel loads half of Numba
