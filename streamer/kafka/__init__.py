"""Connecting to Kafka: shared by the source and the sink, without importing the Kafka library.

`consumers/kafka.py`, `producers/kafka.py` and `streamer doctor` call it. A change usually adds a connection setting or a
clearer message for a connection that fails.

`connection` (the library's options, topics, sizes, and a preflight that explains failures), `login` (SASL by hand).
"""
