# What CI runs is what you run. `make help` lists the targets.
.DEFAULT_GOAL := help
