"""The Bayesian hybrid, the default learner of ratings: matrix factorisation filtered instead of descended.

`bayesian_hybrid` is the learner with its equations; its kernels read packed `rows`: `kernel` learns, `answers` predicts and
scores, `profile` takes in what users say of themselves, `questions` works out what an answer would teach. `refold` is its
trainer. A change of a constant starts in `bayesian_hybrid.Parameters`.
"""
