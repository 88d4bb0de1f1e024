"""The endpoint: gRPC, gRPC-Web and JSON on one port, with health, reflection, metrics and the status page.

`streamer serve` starts `server` with an object that implements `streamer.core.answers.Answers`. A change usually adds a call: to
`streamer/proto`, to the service here, and to `Answers` (README.md). Only this package imports connectrpc.

`recommendations`, `events`, `admin`, `health` (the services), `router` (from paths to services and pages), `security`
(authentication), `codec` (protocol buffers as JSON, strictly), `errors` (errors as clients see them), `observe` (times every
call), `server` (serves until it is stopped), `sockets` (the port), `http/` (both versions of HTTP, and bounds on what a client can
cost), `thread` (the endpoint in a thread of its own), `memory` (an `Answers` without an engine).
"""

# The values of the label `method` of `streamer_request_seconds`; streaming calls (Watch, reflection) are not timed.
METHODS = (
    "streamer.v1.RecommendationService/Recommend",
    "streamer.v1.RecommendationService/RecommendForPreferences",
    "streamer.v1.RecommendationService/Predict",
    "streamer.v1.RecommendationService/SimilarItems",
    "streamer.v1.EventService/Publish",
    "streamer.v1.AdminService/GetStatus",
    "streamer.v1.AdminService/Promote",
    "streamer.v1.AdminService/Renormalise",
    "streamer.v1.AdminService/Rollback",
    "streamer.v1.AdminService/ListGenerations",
    "streamer.v1.AdminService/Backup",
    "streamer.v1.AdminService/ForgetUser",
    "grpc.health.v1.Health/Check",
)
