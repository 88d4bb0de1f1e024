"""A client for a running streamer: HTTP and JSON over one persistent connection."""

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

    index: int = 0  # its place in the request
    reason: str = ""


class Published(msgspec.Struct, frozen=True):
    """An answer to `publish`."""

    accepted: int = 0
    rejected: tuple[Rejected, ...] = ()
    freshness_token: str = ""


class Promoted(msgspec.Struct, frozen=True):
    """An answer to `promote`: all learners, as in `status`."""

    learners: tuple[LearnerStatus, ...] = ()


class Forgotten(msgspec.Struct, frozen=True):
    """An answer to `forget` and `receipt`: the user's receipt first, then those of aliases."""

    receipts: tuple[ReceiptShown, ...] = ()


class TooLarge(StreamerError):
    """The request is larger than the server allows."""


class Client:
    """Calls a streamer. May be used by several threads."""

    def __init__(self, url: str = URL, *, token: str = "", timeout_s: float | None = 30.0) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)
        except (httpx.InvalidURL, ValueError) as error:
            raise StreamerError(f"{url!r} is not a valid address: {error}; give one like {URL}") from None

    def recommend(self, user_id: str, limit: int = 10, freshness_token: str = "") -> Recommendations:
        """Recommendations for a user."""
        query = {"user_id": user_id, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/Recommend", query, Recommendations)

    def recommend_for_preferences(
        self, preferences: Mapping[str, float], ratings: Mapping[str, float], limit: int = 10, freshness_token: str = ""
    ) -> Recommendations:
        """Recommendations for a visitor known only by ratings, by category and by item id."""
        query = {"preferences": preferences, "ratings": ratings, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/RecommendForPreferences", query, Recommendations)

    def predict(self, user_id: str, item_id: str, freshness_token: str = "") -> Prediction:
        """The rating that the user is expected to give the item."""
        query = {"user_id": user_id, "item_id": item_id, "freshness_token": freshness_token}
        return self._ask("RecommendationService/Predict", query, Prediction)

    def similar_items(self, item_id: str, limit: int = 10, freshness_token: str = "") -> Recommendations:
        """The items nearest to the item."""
        query = {"item_id": item_id, "limit": limit, "freshness_token": freshness_token}
        return self._ask("RecommendationService/SimilarItems", query, Recommendations)

    def status(self) -> Status:
        """The status of the server."""
        return self._ask("AdminService/GetStatus", {}, Status)

    def promote(self, learner: str) -> Promoted:
        """Make a running learner the champion of its kind; raises StreamerError for one that does not run."""
        return self._ask("AdminService/Promote", {"learner": learner}, Promoted)

    def promote_generation(self, generation: str) -> Promoted:
        """Make a generation live as soon as it has caught up; raises StreamerError if that is not possible."""
        return self._ask("AdminService/Promote", {"generation_id": generation}, Promoted)

    def renormalise(self) -> None:
        """Begin a retraining; raises StreamerError while one is under way."""
        self._ask("AdminService/Renormalise", {}, dict[str, str])

    def rollback(self) -> str:
        """Make the previous generation live again and return its id; raises StreamerError when there is none."""
        return self._ask("AdminService/Rollback", {}, dict[str, str])["generation"]

    def generations(self) -> Generations:
        """All generations and what became of them."""
        return self._ask("AdminService/ListGenerations", {}, Generations)

    def backup(self, directory: str) -> BackupMade:
        """Copy the server's data to a path on its machine, and wait until it is done."""
        return self._ask("AdminService/Backup", {"directory": directory}, BackupMade)

    def forget(self, user_id: str) -> Forgotten:
        """Forget a user. No answer uses the user's data once this returns; the receipts tell how far the erasure has come."""
        return self._ask("AdminService/ForgetUser", {"user_id": user_id}, Forgotten)

    def receipt(self, number: int) -> Forgotten:
        """How far a removal has come; raises StreamerError for a number that was never given."""
        return self._ask("AdminService/ForgetUser", {"receipt": str(number)}, Forgotten)

    def publish(self, events: Sequence[bytes]) -> Published:
        """Publish events, encoded by `http.event_json`, in one request; raises TooLarge for too many."""
        return self._send("EventService/Publish", b'{"events":[' + b",".join(events) + b"]}", Published)

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, query: Mapping[str, object], answer: type[T]) -> T:
        return self._send(method, msgspec.json.encode(query), answer)

    def _send(self, method: str, body: bytes, answer: type[T]) -> T:
        """Send a request; raises SourceUnavailable, NotAuthorised, TooLarge or StreamerError with the server's own message."""
        try:
            found = self._http.post(
                f"/streamer.v1.{method}", content=body, headers={"content-type": "application/json"}
            )
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Unreachable(
                f"no streamer answers at {self.url}: start one (`streamer serve`), or give another address with --url"
            ) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise StreamerError(f"{self.url!r} is not a valid address: {error}; give one like {URL}") from None
        except httpx.TransportError as error:
            raise SourceUnavailable(
                f"the connection to {self.url} broke ({error}): the request may or may not have been carried out"
            ) from None
        try:
            value = msgspec.json.decode(found.content)
            if found.status_code == 200:
                return msgspec.convert(_to_snake_case(value), answer, strict=False)
            code, sentence = str(value["code"]), str(value["message"])
        except (msgspec.MsgspecError, TypeError, KeyError, UnicodeDecodeError):
            code, sentence = "", f"{self.url} answered {found.status_code} without the JSON of a streamer: is it one?"
        raise _error(found.status_code, code, sentence)


class Unreachable(SourceUnavailable):
    """The server could not be connected to; nothing was sent."""


def _error(status: int, code: str, sentence: str) -> StreamerError:
    if code == "resource_exhausted":
        return TooLarge(sentence)
    if code in ("unauthenticated", "permission_denied"):
        return NotAuthorised(sentence)
    if code in ("unavailable", "deadline_exceeded") or status in (429, 502, 503, 504):
        return SourceUnavailable(sentence)
    return StreamerError(sentence)


def _to_snake_case(value: Any) -> Any:
    """JSON with its keys in snake_case, as in our structs."""
    if isinstance(value, dict):
        return {
            "".join(f"_{c.lower()}" if c.isupper() else c for c in key): _to_snake_case(v) for key, v in value.items()
        }
    return [_to_snake_case(element) for element in value] if isinstance(value, list) else value
