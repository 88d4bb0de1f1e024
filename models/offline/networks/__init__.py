"""offline/networks."""
