"""Models of ratings that are products of a user's and an item's vector plus mean and biases.

`bias` (the baseline), `als`, `stochastic_mf`, `funk_svd`, `embedding_mf`, `embedding_dot_bias`; `product` is what
those in torch share, and the trainer `factors` writes the rows of any of them into an online learner.
"""
