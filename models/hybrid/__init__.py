"""The Bayesian hybrid, the default learner of ratings: matrix factorisation filtered instead of descended.

`bayesian_hybrid` is the learner with its equations. Its kernels read packed `rows`: `kernel` learns and predicts, `answers`
scores items for one user, `profile` uses stated preferences and groups, `questions` chooses what to ask, `take_back` undoes an
earlier rating, `calibration` corrects predictions, `spread` says how far ratings may be off. `joint_fit` is its trainer: it
judges fits of the `posterior`, which `smoother` computes. A change of a constant starts in `parameters`.
"""
