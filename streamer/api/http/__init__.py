"""HTTP/1.1 and HTTP/2 on one port, for the ASGI application that `streamer.api.router` is, with bounds on what a client can cost.

`streamer.api.server` makes a `Front` and runs it. A change usually concerns one version (`http1`, `http2`) or a bound: a field of
`LimitSettings`, its check in `bounds` (what is held) or `Connection.look` (what takes too long), a line in docs/endpoint.md.
The grammar of both versions is that of the libraries h11 and h2; what is here decides when they get bytes, and who goes first.

`front` (accepts, looks after connections, stops), `connection` (one client's), `http1`, `http2`, `frames` (which frames are passed on
together), `request` (one request as ASGI sees it), `bounds` (what clients hold, by peer and in all), `turns` (shares the event loop),
`asgi` (its types).
"""
