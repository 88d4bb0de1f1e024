"""`streamer doctor`."""
