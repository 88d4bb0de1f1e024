"""offline/clicks."""
