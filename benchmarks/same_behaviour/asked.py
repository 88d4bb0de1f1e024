"""The calls that are sent to both sides, and the bytes of the answers without times, random ids and sentences (see `facts`)."""

import time
from pathlib import Path

from benchmarks.same_behaviour.checkout import Serving
from benchmarks.same_behaviour.facts import Facts, masked, unworded

RECOMMEND, PREFERENCES, PREDICT, SIMILAR = (
    f"RecommendationService/{method}" for method in ("Recommend", "RecommendForPreferences", "Predict", "SimilarItems")
)
PUBLISH = "EventService/Publish"
STATUS, GENERATIONS, PROMOTE, RENORMALISE, ROLLBACK, FORGET, BACKUP = (
    f"AdminService/{method}"
    for method in ("GetStatus", "ListGenerations", "Promote", "Renormalise", "Rollback", "ForgetUser", "Backup")
)
ERASE_S = 60.0
TIME_MS = 1_720_000_000_000

READING: list[tuple[str, object]] = [
    *((RECOMMEND, {"userId": user, "limit": limit}) for user, limit in (("u1", 10), ("u56", 1000), ("fan", 5), ("nobody", 5))),
    (RECOMMEND, {"userId": "u1", "limit": 1001}),
    (RECOMMEND, {}),
    (RECOMMEND, {"userId": "u1", "freshnessToken": "no token"}),
    (PREFERENCES, {"preferences": {"Comedy": 5, "Crime": 1}, "limit": 10}),
    (PREFERENCES, {"preferences": {"Comedy": 5}, "ratings": {"i1": 4.5, "i2": 1}, "limit": 10}),
    (PREFERENCES, {"ratings": {"unheard of": 4}}),
    (PREFERENCES, {}),
    *((PREDICT, {"userId": user, "itemId": item}) for user in ("u1", "u56", "fan", "nobody") for item in ("i0", "i15", "unheard of")),
    (PREDICT, {"userId": "u1"}),
    *((SIMILAR, {"itemId": item, "limit": 10}) for item in ("i0", "i15", "unheard of")),
    (STATUS, {}),
    (GENERATIONS, {}),
    (ROLLBACK, {}),
    (PROMOTE, {"learner": "nobody"}),
    (PROMOTE, {"generationId": "g7"}),
    (PROMOTE, {}),
    (FORGET, {"receipt": 9}),
    (BACKUP, {"directory": "not/absolute"}),
    ("RecommendationService/Nothing", {}),
]  # fmt: skip


def note_answer(facts: Facts, name: str, serving: Serving, method: str, body: object) -> str:
    """Send a call, and note the status and the bytes of the answer; returns the answer."""
    answer = serving.ask(method, body)
    facts.exact[f"{name} {method} {body}"] = f"{answer.status_code} {unworded(masked(answer.text))}"
    facts.words[f"{name} {method} {body}"] = masked(answer.text)
    return answer.text


def note_reading(facts: Facts, name: str, serving: Serving) -> None:
    """Calls that change nothing, and the pages."""
    for method, body in READING:
        note_answer(facts, name, serving, method, body)
    for path in ("/healthz", "/readyz", "/nothing"):
        page = serving.http.get(path)
        facts.exact[f"{name} GET {path}"] = f"{page.status_code} {page.headers.get('content-type')} {page.text}"
    facts.words[f"{name} GET /"] = serving.http.get("/").text


def note_writing(facts: Facts, name: str, serving: Serving, folder: Path) -> None:
    """Calls that change something: a backup into `folder`, events, a promotion, the forgetting of a user."""
    answer = serving.ask(BACKUP, {"directory": str(folder)})
    facts.exact[f"{name} {BACKUP}"] = f"{answer.status_code} {masked(answer.text).replace(str(folder), 'DIRECTORY')}"
    events: list[object] = [
        {"rating": {"userId": "ann", "itemId": "i15", "rating": 4.5, "timestampMs": TIME_MS}},
        {"rating": {"userId": "ann", "itemId": "i15", "rating": 4000, "timestampMs": TIME_MS}},
        {"click": {"userId": "ann", "itemId": "i7", "kind": "cart", "timestampMs": TIME_MS + 1, "eventId": "one"}},
        {"click": {"userId": "ann", "itemId": "i7", "kind": "cart", "timestampMs": TIME_MS + 1, "eventId": "one"}},
        {"click": {"userId": "ann", "itemId": "i8", "kind": "poke", "timestampMs": TIME_MS + 2}},
        {"item": {"itemId": "new", "title": "New", "categories": ["Comedy"], "attributes": {"year": 2030}}},
        {"user": {"userId": "ann's other self", "sameAs": "ann", "preferences": {"Crime": 4}}},
        {"removeItem": {"itemId": "i9"}},
        {},
    ]  # fmt: skip
    note_answer(facts, name, serving, PUBLISH, {"events": events})
    token = serving.ask(PUBLISH, {"events": events[:1]}).json()["freshnessToken"]
    serving.ask(RECOMMEND, {"userId": "ann", "freshnessToken": token})  # waits until these events are learned
    for user in ("ann", "ann's other self"):
        note_answer(facts, f"{name} published,", serving, RECOMMEND, {"userId": user})
        note_answer(facts, f"{name} published,", serving, PREDICT, {"userId": user, "itemId": "new"})
    note_answer(facts, name, serving, PROMOTE, {"learner": "bias"})
    note_answer(facts, f"{name} promoted,", serving, PREDICT, {"userId": "u1", "itemId": "i15"})
    forgotten = serving.ask(FORGET, {"userId": "ann"})
    facts.exact[f"{name} {FORGET}: status"] = str(forgotten.status_code)
    note_answer(facts, f"{name} forgotten,", serving, RECOMMEND, {"userId": "ann"})
    deadline, numbers = time.monotonic() + ERASE_S, [receipt["number"] for receipt in forgotten.json()["receipts"]]
    while any(_stage(serving, number) != "complete" for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.2)
    for number in numbers:
        note_answer(facts, name, serving, FORGET, {"receipt": number})
    note_answer(facts, f"{name} at the end,", serving, STATUS, {})


def _stage(serving: Serving, number: object) -> object:
    return serving.ask(FORGET, {"receipt": number}).json()["receipts"][0]["stage"]
