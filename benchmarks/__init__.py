"""Every learner of ours and the peers side by side, on the same streams in the same run: `make bench`."""
