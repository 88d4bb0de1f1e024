"""Offline: evaluate learners on a file, train and compare the models of the field, and inspect a state.

`streamer evaluate`, `train`, `report` and `inspect` call it; of this only `oddities` is used by `serve`, before it begins. A change usually adds
a figure to the output of these commands.

`evaluate` (test-then-train over a file), `ranking` (its ranks of clicks, for which `clicked` knows what each user has clicked),
`click_figures` (hit rates and the like of these ranks), `evaluate_retraining` (the same stream with
and without retrainings), `training_data` (a source as one dataset), `splits` (training, validation and test part), `train` (fit
a model and measure it, by hit rates of its own), `validation` (what a file has), `oddities` (what looks odd in it), `comparison` (a picture of several models), `diagnosis` and
`next_item_diagnosis` (what is wrong with a fit, in words), `inspection` (the contents of a state). The report has a room of its
own below this one.
"""
