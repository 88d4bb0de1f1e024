"""Neural networks that torch fits and that serve, and keep learning, without torch.

`network` (`deep-fm`, `embedding-network`) with its `kernel`s, and `gru` (`gru4rec`). Their trainers are in `models/offline`. A
change of the layers must be made in both, and in the twin in `models/twins`.
"""
