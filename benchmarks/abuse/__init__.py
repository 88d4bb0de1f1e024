"""The endpoint under abuse: `attacks` are what hostile clients do, `hostile` runs them, `honest` measures what others notice, `__main__` brings both together."""
