"""The endpoint: gRPC, gRPC-Web and JSON on one port, with health, reflection, metrics and the status page.

`streamer serve` runs `server` over anything that is a `streamer.core.answers.Answers`. A change usually adds a call: to
`streamer/proto`, to the service here, and to `Answers` (README.md). connectrpc and hypercorn are known in this package only.

`recommendations`, `events`, `admin`, `health` (the services), `router` (which path is whose), `security` (who may ask),
`codec` (protocol buffers as JSON, strictly), `errors` (how errors leave the process), `observe` (around every call), `server` (one
port), `thread` (the endpoint in a thread of its own), `memory` (an `Answers` without an engine).
"""

# The label values of `streamer_request_seconds`; streams (Watch, reflection) are not timed.
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
