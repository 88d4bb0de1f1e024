"""Models of ratings that are products of a user's and an item's vector, with mean and biases inside.

`bias` (what all others must beat), `als`, `stochastic_mf`, `funk_svd`, `embedding_mf`, `embedding_dot_bias`; `product` is what
those in torch share, and `factors` puts what any of them learned into an online learner.
"""
