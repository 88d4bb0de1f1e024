"""DeepFM: a factorisation machine and a deep network over the same vectors, fitted jointly, in torch.

    y = mu + sigma (sum_f b_f + sum_(f < g) v_f . v_g + w . relu(W2 relu(W1 [v_1 ... v_4] + c1) + c2))

over the fields user, item, the item's categories and the user's groups (fields.py). Squared error, L2 per occurrence, dropout
on hidden units, fused Adam. Years take part as categories, one for each decade.
Cost: some 5 s of CPU a million ratings and epoch.

Guo, Tang, Ye, Li, He (2017), DeepFM: a factorization-machine based neural network for CTR prediction, IJCAI.
Deviations: ratings instead of clicks, hence squared error, a mean and biases; some users and items are made unknown while
training, so that the network learns to predict new ones (Volkovs, Yu, Poutanen (2017), DropoutNet, NIPS).
"""

from streamer.models.offline.networks.fields import FieldsModel


class DeepFM(FieldsModel):
    """A protocols.Rater."""

    products = True
