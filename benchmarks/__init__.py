"""Compares our learners with peers, libraries of others, on the same streams in the same run: `make bench`."""
