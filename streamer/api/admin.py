"""AdminService: how is it going?"""

from connectrpc.request import RequestContext

from streamer._gen.streamer.v1 import admin_pb as pb
from streamer._gen.streamer.v1.admin_connect import AdminService
from streamer.answers import Answers, LearnerStatus, Status


class Admin(AdminService):
    """Reads, and changes nothing."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def get_status(
        self, request: pb.GetStatusRequest, ctx: RequestContext[pb.GetStatusRequest, pb.GetStatusResponse]
    ) -> pb.GetStatusResponse:
        """What the process is doing."""
        return written(self._answers.status())


def written(status: Status) -> pb.GetStatusResponse:
    """The status as it is sent."""
    return pb.GetStatusResponse(
        version=status.version,
        state=status.state,
        ingestion=status.ingestion,
        started_ms=status.started_ms,
        uptime_s=status.uptime_s,
        generation=status.generation,
        learners=[_learner(learner) for learner in status.learners],
        events=[pb.EventCount(topic=c.topic, outcome=c.outcome, count=c.count) for c in status.events],
        dead_letters=[pb.DeadLetterCount(reason=c.reason, count=c.count) for c in status.dead_letters],
        lag=[pb.PartitionLag(topic=p.topic, partition=p.partition, events=p.events) for p in status.lag],
        offsets=[pb.Offset(topic=o.topic, partition=o.partition, next=o.next) for o in status.offsets],
        users=status.users,
        items=status.items,
        state_bytes=status.state_bytes,
        log_bytes=status.log_bytes,
    )


def _learner(learner: LearnerStatus) -> pb.Learner:
    windows = [
        pb.RollingRmse(window=w.window) if w.rmse is None else pb.RollingRmse(window=w.window, rmse=w.rmse)
        for w in learner.rmse
    ]
    drifts = [pb.DriftDetections(detector=d.detector, count=d.count) for d in learner.drift_detections]
    return pb.Learner(
        name=learner.name, kind=learner.kind, champion=learner.champion, rmse=windows, drift_detections=drifts
    )
