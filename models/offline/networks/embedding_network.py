"""The embedding network: vectors of user, item, categories and groups, concatenated, under hidden layers, in torch.

    y = mu + sigma (b_u + b_i + b_categories + b_groups + w . relu(W2 relu(W1 [v_u, v_i, v_categories, v_groups] + c1) + c2))

Side information (an item's categories, with one for each decade, and a user's groups) makes two of the four fields (fields.py).
Squared error, L2 per occurrence, dropout on hidden units, fused Adam. Cost: some 5 s of CPU a million ratings and epoch.

He, Liao, Zhang, Nie, Hu, Chua (2017), Neural collaborative filtering, WWW (its multi-layer perceptron), and fastai's
`collab_learner(use_nn=True)`: Howard, Gugger (2020), Deep learning for coders, ch. 8.
Deviations: mean and biases are added to the network, which only has to learn what they leave; no sigmoid range; some users
and items are made unknown while training.
"""

from streamer.models.offline.networks.fields import FieldsModel


class EmbeddingNetwork(FieldsModel):
    """A protocols.Rater."""

    products = False
