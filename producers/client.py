"""A running streamer, asked by HTTP in JSON over one kept connection."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import msgspec

from streamer.core.answers import (
    BackupMade,
    Generations,
    LearnerStatus,
    Prediction,
    ReceiptShown,
    Recommendation,
    Status,
)
from streamer.core.errors import NotAuthorised, SourceUnavailable, StreamerError

URL = "http://127.0.0.1:8080"
T = TypeVar("T")


class Recommendations(msgspec.Struct, frozen=True):
    """An answer to `recommend` or `similar_items`."""

    items: tuple[Recommendation, ...] = ()
    recommendation_id: str = ""
    generation: str = ""
    freshness_token: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """An event that was not stored."""

    index: int = 0  # in the request
    reason: str = ""


class Published(msgspec.Struct, frozen=True):
    """An answer to `publish`."""

    accepted: int = 0
    rejected: tuple[Rejected, ...] = ()
    freshness_token: str = ""


class Promoted(msgspec.Struct, frozen=True):
    """An answer to `promote`: all learners, as `status` says."""

    learners: tuple[LearnerStatus, ...] = ()


class Forgotten(msgspec.Struct, frozen=True):
    """An answer to `forget` and `receipt`: of the user first, then of those who are the same person."""

    receipts: tuple[ReceiptShown, ...] = ()


class TooLarge(StreamerError):
    """The server does not read requests of this size."""


class Client:
    """Asks a streamer; safe from several threads."""

    def __init__(self, url: str = URL, *, token: str = "", timeout_s: float | None = 30.0) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise StreamerError(f"{url!r} is no address: {error}; one looks like {URL}") from None

    def recommend(self, user_id: str, limit: int = 10, freshness_token: str = "") -> Recommendations:
        """What the user should see now."""
        query = {"user_id": user_id, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/Recommend", query, Recommendations)

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int = 10, freshness_token: str = ""
    ) -> Recommendations:
        """What somebody should see who says this: ratings by category, and by item id."""
        query = {"preferences": preferences, "ratings": ratings, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/RecommendForPreferences", query, Recommendations)

    def predict(self, user_id: str, item_id: str, freshness_token: str = "") -> Prediction:
        """The rating that the user would give the item."""
        query = {"user_id": user_id, "item_id": item_id, "freshness_token": freshness_token}
        return self._ask("RecommendationService/Predict", query, Prediction)

    def similar_items(self, item_id: str, limit: int = 10, freshness_token: str = "") -> Recommendations:
        """The items nearest to the item."""
        query = {"item_id": item_id, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/SimilarItems", query, Recommendations)

    def status(self) -> Status:
        """What the server is doing."""
        return self._ask("AdminService/GetStatus", {}, Status)

    def promote(self, learner: str) -> Promoted:
        """Let a learner that runs answer from now on; raises StreamerError for one that does not."""
        return self._ask("AdminService/Promote", {"learner": learner}, Promoted)

    def promote_generation(self, generation: str) -> Promoted:
        """Let a generation answer as soon as it has caught up; raises StreamerError for one that cannot."""
        return self._ask("AdminService/Promote", {"generation_id": generation}, Promoted)

    def renormalise(self) -> None:
        """Begin a retraining; raises StreamerError while one is under way."""
        self._ask("AdminService/Renormalise", {}, dict[str, str])

    def rollback(self) -> str:
        """Let the generation before answer again; its id. Raises StreamerError when there is none."""
        return self._ask("AdminService/Rollback", {}, dict[str, str])["generation"]

    def generations(self) -> Generations:
        """What became of every generation."""
        return self._ask("AdminService/ListGenerations", {}, Generations)

    def backup(self, directory: str) -> BackupMade:
        """Copy the server's data into a path on its machine; however long that takes."""
        return self._ask("AdminService/Backup", {"directory": directory}, BackupMade)

    def forget(self, user_id: str) -> Forgotten:
        """Forget a user: answers have stopped when this returns, the receipts say what is left."""
        return self._ask("AdminService/ForgetUser", {"user_id": user_id}, Forgotten)

    def receipt(self, number: int) -> Forgotten:
        """How far the forgetting of a user is; raises StreamerError for a number that was never given."""
        return self._ask("AdminService/ForgetUser", {"receipt": str(number)}, Forgotten)

    def publish(self, events: Sequence[bytes]) -> Published:
        """One request with events as `wire` writes them; raises TooLarge for too many of them."""
        return self._send("EventService/Publish", b'{"events":[' + b",".join(events) + b"]}", Published)

    def close(self) -> None:
        """Let go of the connection; safe to call twice."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, query: Mapping[str, object], answer: type[T]) -> T:
        return self._send(method, msgspec.json.encode(query), answer)

    def _send(self, method: str, body: bytes, answer: type[T]) -> T:
        """Raises SourceUnavailable, NotAuthorised, TooLarge or StreamerError, with the server's own sentence."""
        try:
            found = self._http.post(
                f"/streamer.v1.{method}", content=body, headers={"content-type": "application/json"}
            )
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Unreached(
                f"no streamer answers at {self.url}: start one (`streamer serve`), or name another with --url"
            ) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise StreamerError(f"{self.url!r} is no address: {error}; one looks like {URL}") from None
        except httpx.TransportError as error:
            raise SourceUnavailable(
                f"{self.url} broke off ({error}): the request may or may not have been done"
            ) from None
        try:
            value = msgspec.json.decode(found.content)
            if found.status_code == 200:
                return msgspec.convert(_snake(value), answer, strict=False)
            code, sentence = str(value["code"]), str(value["message"])
        except (msgspec.MsgspecError, TypeError, KeyError, UnicodeDecodeError):
            code, sentence = "", f"{self.url} answered {found.status_code} and no JSON of ours: is it a streamer?"
        raise _error(found.status_code, code, sentence)


class Unreached(SourceUnavailable):
    """Nothing was sent."""


def _error(status: int, code: str, sentence: str) -> StreamerError:
    if code == "resource_exhausted":
        return TooLarge(sentence)
    if code in ("unauthenticated", "permission_denied"):
        return NotAuthorised(sentence)
    if code in ("unavailable", "deadline_exceeded") or status in (429, 502, 503, 504):
        return SourceUnavailable(sentence)
    return StreamerError(sentence)


def _snake(value: Any) -> Any:
    """JSON with the names of our structures, whose keys are all names."""
    if isinstance(value, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): _snake(v) for key, v in value.items()}
    return [_snake(element) for element in value] if isinstance(value, list) else value
