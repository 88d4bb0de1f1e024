"""AdminService: status, promotion, retraining, backups, and the forgetting of users."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import TypeVar

import msgspec
from connectrpc.request import RequestContext

from streamer._gen.streamer.v1 import admin_pb as pb
from streamer._gen.streamer.v1.admin_connect import AdminService
from streamer.api.errors import invalid
from streamer.core.answers import Answers, Generation, LearnerStatus, ReceiptShown, Score, Status

T = TypeVar("T")


class Admin(AdminService):
    """The service. security.py decides which clients may call the methods that change something."""

    def __init__(self, answers: Answers, threads: ThreadPoolExecutor) -> None:
        """`threads` run the calls of `answers` that block."""
        self._answers = answers
        self._threads = threads

    async def get_status(
        self, request: pb.GetStatusRequest, ctx: RequestContext[pb.GetStatusRequest, pb.GetStatusResponse]
    ) -> pb.GetStatusResponse:
        """See admin.proto."""
        return _status(self._answers.status())

    async def promote(
        self, request: pb.PromoteRequest, ctx: RequestContext[pb.PromoteRequest, pb.PromoteResponse]
    ) -> pb.PromoteResponse:
        """See admin.proto."""
        target = request.target
        if target is None or not target.value:
            raise invalid(
                "say what to promote: give learner (the name of a running learner, see GetStatus) or generation_id (see "
                "ListGenerations)"
            )
        promote = self._answers.promote_generation if target.field == "generation_id" else self._answers.promote
        await self._in_thread(promote, target.value)
        return pb.PromoteResponse(learners=[_learner(learner) for learner in self._answers.status().learners])

    async def renormalise(
        self, request: pb.RenormaliseRequest, ctx: RequestContext[pb.RenormaliseRequest, pb.RenormaliseResponse]
    ) -> pb.RenormaliseResponse:
        """See admin.proto."""
        await self._in_thread(self._answers.renormalise)
        return pb.RenormaliseResponse()

    async def rollback(
        self, request: pb.RollbackRequest, ctx: RequestContext[pb.RollbackRequest, pb.RollbackResponse]
    ) -> pb.RollbackResponse:
        """See admin.proto."""
        return pb.RollbackResponse(generation=await self._in_thread(self._answers.rollback))

    async def list_generations(
        self,
        request: pb.ListGenerationsRequest,
        ctx: RequestContext[pb.ListGenerationsRequest, pb.ListGenerationsResponse],
    ) -> pb.ListGenerationsResponse:
        """See admin.proto."""
        found = await self._in_thread(self._answers.generations)
        return pb.ListGenerationsResponse(generations=[_generation(one) for one in found.generations], now=found.now)

    async def _in_thread(self, ask: Callable[..., T], *arguments: object) -> T:
        """Run a blocking call in a worker thread, so that it does not hold up answers."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask, *arguments)

    async def backup(
        self, request: pb.BackupRequest, ctx: RequestContext[pb.BackupRequest, pb.BackupResponse]
    ) -> pb.BackupResponse:
        """See admin.proto."""
        if not PurePath(request.directory).is_absolute():
            raise invalid(
                f"the backup needs an absolute path on the server's machine as its directory, not {request.directory[:200]!r}"
            )
        made = await self._in_thread(self._answers.backup, request.directory)
        return pb.BackupResponse(
            directory=made.directory,
            files=made.files,
            size_bytes=made.size_bytes,
            digest=made.digest,
            offsets=[pb.Offset(topic=o.topic, partition=o.partition, next=o.next) for o in made.offsets],
        )

    async def forget_user(
        self, request: pb.ForgetUserRequest, ctx: RequestContext[pb.ForgetUserRequest, pb.ForgetUserResponse]
    ) -> pb.ForgetUserResponse:
        """See admin.proto."""
        what = request.what
        if what is None or not what.value:
            raise invalid("say whom to forget: give user_id; or give receipt, the number of the receipt to look up")
        found: Sequence[ReceiptShown]
        if what.field == "user_id":
            found = await self._in_thread(self._answers.forget, what.value)
        else:
            found = [await self._in_thread(self._answers.receipt, what.value)]
        return pb.ForgetUserResponse(receipts=[_receipt(receipt) for receipt in found])


def _status(status: Status) -> pb.GetStatusResponse:
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
        archive=pb.Archive(bytes=kept.bytes, records=kept.records, behind=kept.behind, trouble=kept.trouble)
        if (kept := status.archive)
        else None,
        renormalisation=status.renormalisation,
    )


def _receipt(receipt: ReceiptShown) -> pb.Receipt:
    return pb.Receipt(
        number=receipt.number,
        stage=receipt.stage,
        records=receipt.records,
        dead_letters=receipt.dead_letters,
        event_ids=receipt.event_ids,
        waits=list(receipt.waits),
    )


def _learner(learner: LearnerStatus) -> pb.Learner:
    windows = [
        pb.RollingRmse(window=w.window) if w.rmse is None else pb.RollingRmse(window=w.window, rmse=w.rmse)
        for w in learner.rmse
    ]
    drifts = [pb.DriftDetections(detector=d.detector, count=d.count) for d in learner.drift_detections]
    return pb.Learner(
        name=learner.name,
        kind=learner.kind,
        champion=learner.champion,
        rmse=windows,
        drift_detections=drifts,
        promoted=learner.promoted,
    )


def _generation(one: Generation) -> pb.Generation:
    return pb.Generation(
        id=one.id,
        parent=one.parent,
        live=one.live,
        stage=one.stage,
        why=one.why,
        trigger=one.trigger,
        cut_events=one.cut_events,
        cut_ms=one.cut_ms,
        changed_ms=one.changed_ms,
        scores=[_score(score) for score in one.scores],
        watched=[_score(score) for score in one.watched],
        seconds=one.seconds,
        churn=one.churn,
    )


def _score(score: Score) -> pb.Score:
    fields = msgspec.structs.asdict(score)
    return pb.Score(**{name: value for name, value in fields.items() if value is not None})
