"""The endpoint: gRPC, gRPC-Web and JSON on one port, with health, reflection, metrics and the status page.

`streamer.api.server.serve` runs it over anything that is an `Answers`. connectrpc is known in this package only.
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
