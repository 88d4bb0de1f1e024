"""storage/archive."""
