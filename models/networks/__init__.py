"""Networks that were fitted by torch and are served, and kept fresh, without it.

`network` (`deep-fm`, `embedding-network`) with its `kernel`s, and `gru` (`gru4rec`). Their trainers are in `models/offline`. A
change of the layers concerns both sides and the twin in `models/twins`.
"""
