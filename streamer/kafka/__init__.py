"""How a Kafka broker is reached: shared by the source and the sink, and free of the Kafka library itself.

`consumers/kafka.py`, `producers/kafka.py` and `streamer doctor` call it. A change usually adds a connection setting or a
clearer sentence for a connection that fails.

`connection` (settings as the library's options, topics, sizes, a preflight that says what is wrong), `login` (TLS and SASL by hand).
"""
