"""Neural networks for ratings, fitted in torch.

`deep_fm`, `embedding_network` (both over `fields`), `two_tower`, `autorec`; `network_trainer` refits the online networks with them.
"""
