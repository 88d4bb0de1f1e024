"""offline/factorisation."""
