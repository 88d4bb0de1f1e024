"""EventService: publishing events by remote call."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

from connectrpc.request import RequestContext
from protobuf.wkt.google.protobuf.struct_pb import NullValue, Struct, Value

from streamer._gen.streamer.v1 import event_pb as pb
from streamer._gen.streamer.v1.event_connect import EventService
from streamer.api.codec import UNREADABLE
from streamer.core import events
from streamer.core.answers import Answers
from streamer.core.errors import BadEvent, Reason
from streamer.core.events import Message
from streamer.core.freshness import token
from streamer.core.times import stated_milliseconds

Attribute: TypeAlias = str | float | bool | None


class Events(EventService):
    """The service. Publishing blocks in worker threads, where many requests share one fsync of the log."""

    def __init__(self, answers: Answers, threads: ThreadPoolExecutor) -> None:
        self._answers = answers
        self._threads = threads

    async def publish(
        self, request: pb.PublishRequest, ctx: RequestContext[pb.PublishRequest, pb.PublishResponse]
    ) -> pb.PublishResponse:
        """Store the valid events, and say which were rejected and why."""
        messages: list[Message] = []
        rejected: list[pb.RejectedEvent] = []
        unreadable = UNREADABLE.get()
        for index, event in enumerate(request.events):
            try:
                if index in unreadable:
                    raise BadEvent(Reason.WRONG_TYPE, unreadable[index])
                message = events.message(from_proto(event))
                self._answers.validate(message)
                messages.append(message)
            except BadEvent as error:
                self._answers.observe_rejected(error.reason)
                rejected.append(pb.RejectedEvent(index=index, reason=f"{error.reason}: {error}"))
        if not messages:
            return pb.PublishResponse(rejected=rejected)
        offsets = await asyncio.get_running_loop().run_in_executor(self._threads, self._answers.publish, messages)
        return pb.PublishResponse(accepted=len(messages), rejected=rejected, freshness_token=token(offsets))


def from_proto(event: pb.Event) -> events.Event:
    """The event as it is stored in topics; raises BadEvent for values that JSON or a topic cannot hold."""
    match event.kind.value if event.kind else None:
        case pb.Rating() as rating:
            return _rating(rating)
        case pb.Retraction() as retraction:
            return _retraction(retraction)
        case pb.Click() as click:
            return _click(click)
        case pb.ItemUpdate() as item:
            available = item.available if item.has_field("available") else True
            attributes = _attributes(item.attributes)
            return events.ItemUpdate(item.item_id, item.title, tuple(item.categories), attributes, available)
        case pb.UserUpdate() as user:
            preferences = {name: _finite(f"preferences[{name!r}]", value) for name, value in user.preferences.items()}
            same_as = user.same_as if user.has_field("same_as") else None
            return events.UserUpdate(user.user_id, _attributes(user.attributes), preferences, same_as)
        case pb.ItemRemoval() as removal:
            return events.ItemRemoval(removal.item_id)
        case pb.UserRemoval() as forgotten:
            return events.UserRemoval(forgotten.user_id)
    kinds = ", ".join(field.json_name for field in pb.Event.desc().fields)
    raise BadEvent(Reason.WRONG_TYPE, f"the event is empty; it must be one of: {kinds}")


def _rating(rating: pb.Rating) -> events.Rating:
    if not rating.has_field("rating"):
        raise BadEvent(Reason.WRONG_TYPE, "the rating has no value: give it as `rating`, or withdraw one by `retract`")
    return events.Rating(
        rating.user_id,
        rating.item_id,
        _finite("rating", rating.rating),
        stated_milliseconds(rating.timestamp_ms) if rating.has_field("timestamp_ms") else None,
        rating.event_id if rating.has_field("event_id") else None,
    )


def _retraction(retraction: pb.Retraction) -> events.Rating:
    return events.Rating(
        retraction.user_id,
        retraction.item_id,
        None,
        retraction.timestamp_ms if retraction.has_field("timestamp_ms") else None,
        retraction.event_id if retraction.has_field("event_id") else None,
    )


def _click(click: pb.Click) -> events.Click:
    return events.Click(
        click.user_id,
        click.item_id,
        click.kind if click.has_field("kind") else "click",
        stated_milliseconds(click.timestamp_ms) if click.has_field("timestamp_ms") else None,
        click.event_id if click.has_field("event_id") else None,
        click.session_id if click.has_field("session_id") else None,
        click.recommendation_id if click.has_field("recommendation_id") else None,
    )


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise BadEvent(Reason.OUT_OF_RANGE, f"{name} is {value}; it must be a finite number")
    return value


def _attributes(attributes: Struct | None) -> dict[str, Attribute]:
    return {name: _attribute(name, value) for name, value in attributes.fields.items()} if attributes else {}


def _attribute(name: str, value: Value) -> Attribute:
    match value.kind.value if value.kind else None:
        case NullValue():
            return None
        case str() | bool() as simple:
            return simple
        case float() as number:
            return _finite(f"attributes[{name!r}]", number)
    raise BadEvent(
        Reason.WRONG_TYPE, f"attributes[{name!r}] must be a text, a number, a boolean or null, not a list or an object"
    )
