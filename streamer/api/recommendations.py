"""RecommendationService: recommendations, predicted ratings and similar items."""

from collections.abc import Sequence
from uuid import uuid4

from connectrpc.request import RequestContext

from streamer._gen.streamer.v1.recommendation_connect import RecommendationService
from streamer._gen.streamer.v1.recommendation_pb import (
    PredictRequest,
    PredictResponse,
    Recommendation,
    RecommendForPreferencesRequest,
    RecommendRequest,
    RecommendResponse,
    SimilarItemsRequest,
    SimilarItemsResponse,
)
from streamer.api.errors import deadline_exceeded, invalid
from streamer.core.answers import Answers
from streamer.core.answers import Recommendation as Answer
from streamer.core.freshness import parse, token
from streamer.stream.decoder import check_id

MAX_LIMIT, DEFAULT_LIMIT = 1000, 10
# This share of a client's deadline, and at most this many seconds, is kept back, so that an error still reaches the client in time.
_SPARE_SHARE, _SPARE_S = 0.1, 0.1


class Recommendations(RecommendationService):
    """The service. Unknown users and items get answers too; only invalid ids are refused."""

    def __init__(self, answers: Answers, deadline_s: float) -> None:
        self._answers = answers
        self._deadline_s = deadline_s

    async def recommend(
        self, request: RecommendRequest, ctx: RequestContext[RecommendRequest, RecommendResponse]
    ) -> RecommendResponse:
        """See recommendation.proto."""
        user_id, limit = _id("userId", request.user_id), _limit(request.limit)
        seen = await self._fresh(request.freshness_token, ctx.timeout_ms)
        view = self._answers.view()
        return _list(view.recommend(user_id, limit), view.generation, seen)

    async def recommend_for_preferences(
        self,
        request: RecommendForPreferencesRequest,
        ctx: RequestContext[RecommendForPreferencesRequest, RecommendResponse],
    ) -> RecommendResponse:
        """See recommendation.proto."""
        for item_id in request.ratings:
            _id("an item's id in ratings", item_id)
        limit = _limit(request.limit)
        seen = await self._fresh(request.freshness_token, ctx.timeout_ms)
        view = self._answers.view()
        found = view.recommend_for_preferences(dict(request.preferences), dict(request.ratings), limit)
        return _list(found, view.generation, seen)

    async def predict(
        self, request: PredictRequest, ctx: RequestContext[PredictRequest, PredictResponse]
    ) -> PredictResponse:
        """See recommendation.proto."""
        user_id, item_id = _id("userId", request.user_id), _id("itemId", request.item_id)
        seen = await self._fresh(request.freshness_token, ctx.timeout_ms)
        view = self._answers.view()
        answer = view.predict(user_id, item_id)
        return PredictResponse(
            value=answer.value,
            source=answer.source,
            generation=view.generation,
            freshness_token=seen,
            low=answer.low,
            high=answer.high,
        )

    async def similar_items(
        self, request: SimilarItemsRequest, ctx: RequestContext[SimilarItemsRequest, SimilarItemsResponse]
    ) -> SimilarItemsResponse:
        """See recommendation.proto."""
        item_id, limit = _id("itemId", request.item_id), _limit(request.limit)
        seen = await self._fresh(request.freshness_token, ctx.timeout_ms)
        view = self._answers.view()
        items = [_item(answer) for answer in view.similar_items(item_id, limit)]
        return SimilarItemsResponse(items=items, generation=view.generation, freshness_token=seen)

    async def _fresh(self, wanted: str, left_ms: float | None) -> str:
        """Wait until the view includes the events of the token `wanted`; returns the view's token, read before the answer.

        Raises deadline_exceeded after `left_ms` (None: after the setting `deadline_s`), and invalid_argument for a bad token.
        """
        if wanted:
            try:
                offsets = parse(wanted)
                wait_s = self._deadline_s
                if left_ms is not None:
                    left_s = max(0.0, left_ms / 1000)
                    wait_s = left_s - min(_SPARE_S, _SPARE_SHARE * left_s)
                included = await self._answers.fresh(offsets, wait_s)
            except ValueError as error:
                raise invalid(str(error)) from None
            if not included:
                raise deadline_exceeded(
                    f"the events up to {wanted} were not learned within {wait_s:.3g} s; "
                    f"so far: {token(self._answers.offsets()) or 'none'}. Ask again, or without freshnessToken"
                )
        return token(self._answers.offsets())


def _list(answers: Sequence[Answer], generation: str, seen: str) -> RecommendResponse:
    items = [_item(answer) for answer in answers]
    return RecommendResponse(items=items, recommendation_id=uuid4().hex, generation=generation, freshness_token=seen)


def _item(answer: Answer) -> Recommendation:
    return Recommendation(item_id=answer.item_id, title=answer.title, score=answer.score, source=answer.source)


def _id(field: str, value: str) -> str:
    check_id(value, field)
    return value


def _limit(limit: int) -> int:
    if not 0 <= limit <= MAX_LIMIT:
        raise invalid(f"limit is {limit}; it can be 1 to {MAX_LIMIT:,}, or 0 for {DEFAULT_LIMIT}")
    return limit or DEFAULT_LIMIT
