"""Offline: evaluate learners on a file, train and compare the models of the field, and look into a state.

`streamer evaluate`, `train`, `report` and `inspect` call it; nothing here runs while a streamer serves. A change usually adds
a figure to what these commands say.

`evaluate` (test-then-train over a file), `ranking` (hit rates and NDCG of clicks), `evaluate_retraining` (the same with
retrainings beside it), `training_data` (a source as one dataset), `splits` (how it is cut), `train` (fit a model and measure
it), `comparison` (several, side by side), `diagnosis` and `next_item_diagnosis` (what is wrong with a fit, in words),
`inspection` (what a state holds). The report has a room of its own below this one.
"""
