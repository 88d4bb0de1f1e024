"""The constants of the Bayesian hybrid; bayesian_hybrid.py has its equations."""

import msgspec

# The constants that a refit finds by evidence (joint_fit.py). The table `tuned` holds their multiples, in this order.
TUNED = (
    "noise",
    "session_prior",
    "bias_process",
    "latent_process",
    "consensus_process",
    "item_process",
    "bias_prior",
    "consensus_prior",
    "popularity_prior",
    "category_prior",
    "item_prior",
    "vector_prior",
    "shared_rate",
)


class BayesianHybridParameters(msgspec.Struct, frozen=True):
    """Variances and rates for ratings of deviation 1: the design's values, divided by the variance of its ratings, 1.087."""

    latent_dim: int = 8
    """Latent factors. The design's choice up to some 300k events, and 16 from there; a user's row grows with its square."""
    categories: int = 40
    """Users have a weight for each of the first this many categories: enough for genres and decades. Later ones act
    through the latent weights; 0: no categories are used."""
    noise: float = 0.684
    """R: variance of a rating around its prediction (design: .743)."""
    bias_prior: float = 0.127
    """Variance between users' biases (design: .138)."""
    habit_events: float = 250.0
    """Weight of the common R in a user's own, in events. 100 to 250 gain alike where users differ; 250 costs least
    where they do not."""
    session_prior: float = 0.101
    """Variance between sessions of a user (design: .11)."""
    consensus_prior: float = 0.15
    """Variance of the weight on consensus; without a unit (design: .265, which is worse on all streams tried)."""
    popularity_prior: float = 0.12
    """Variance of the weight on popularity (design: .2)."""
    category_prior: float = 0.07
    """Variance of a category's weight (design: .066)."""
    latent_prior: float = 0.588
    """Variance of a user's latent weight (design: .639)."""
    item_prior: float = 0.12
    """Variance between items' biases (design: .189)."""
    vector_prior: float = 0.058
    """Variance of an item's factor; without a unit."""
    vector_noise: float = 0.0128
    """Standard deviation of an item's initial factors, which makes them differ from one another."""
    session_events: float = 17.0
    """tau: events after which a session's bias has faded to 1/e."""
    session_gap_s: float = 100.0
    """Seconds without an event after which a new session begins."""
    session_carry: float = 0.5
    """The share of a session's bias with which the next session begins, if it follows at once."""
    session_carry_hours: float = 24.0
    """Hours between two sessions after which that share has faded to 1/e. 6 to 100 gain alike."""
    bias_process: float = 3e-4
    """What an event adds to the variance of its user's bias. Half the design's (6.5e-4), since a session passes on its bias."""
    latent_process: float = 1.5e-6
    """What an event adds to the variance of each of its user's latent weights (design: 1.6e-6)."""
    item_process: float = 3.4e-4
    """What an event adds to the variance of its item's bias (design: 3.7e-4)."""
    consensus_process: float = 1e-4
    """What an event adds to the variance of its user's weight on consensus. Between 1e-4 and 3e-4 all gain alike."""
    consensus_rate: float = 1e-3
    """Step of the consensus weight of new users. About the design's value for the popularity weight."""
    popularity_rate: float = 0.0012
    """Step of the popularity weight of new users."""
    category_rate: float = 0.0047
    """Smallest step of beta."""
    category_events: float = 20.0
    """The first steps of beta are 1 / (events of the category + this). 10 to 50 gain alike."""
    vector_rate: float = 0.0105
    """Step of Gamma (design: .0077). From .008 to .012 ml-latest-small hardly changes, and simulated worlds gain."""
    vector_decay: float = 5e-5
    """Pull of Gamma towards 0 with each event of its category."""
    preference_noise: float = 0.05
    """Variance of a stated preference around the user's opinion of the category: smaller than a rating's, as it is
    about all its items. For a category without a weight, `noise` is used."""
    group_users: float = 20.0
    """Shrinkage of a group's mean towards that of all users, in users. 3 to 30 gain alike."""
    alike_items: float = 5.0
    """Shrinkage of the mean of items with exactly the same categories, in items. 5 to 20 gain alike."""
    calibration_prior: float = 0.02
    """Initial and largest variance of a weight of the calibration. .01 to .04 gain alike."""
    calibration_forgetting: float = 0.9997
    """lambda: the factor by which each event reduces the weight of earlier events in the calibration: to 1/e after 3,300."""
    spread_rate: float = 0.0005
    """Smallest step of what the stated variance of a rating depends on."""
    clip: float = 4.0
    """Larger errors are clipped to this, in deviations of the ratings. No rating of a five-star scale is further off."""
