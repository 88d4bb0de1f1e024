"""Two streams of clicks that films are not like: music, heard again and again, and news, which live for hours.

    simulated-music   some thousands of songs of artists of genres; half of the plays repeat one of the user's own, mostly a recent one
    simulated-news    articles lose most readers within a day; readers stay with a topic, and with the story of the last article

Sessions follow one another, with seconds within them. The same call writes the same bytes. Nobody tuned our learners on them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.random import Generator

from streamer.core.arrays import F64

FIRST_MS = 1_700_000_000_000

Event = tuple[int, int, int]  # user, item, seconds


def music(random: Generator, plays: int = 50_000, users: int = 400, artists: int = 2_000) -> Iterator[Event]:
    """Plays: with even odds a song of the user's own history, or one of a familiar genre's artists, by popularity."""
    genres = random.integers(0, 40, artists)
    of_genre = [np.flatnonzero(genres == genre) for genre in range(40)]
    popular = random.permutation(_power(artists, 0.9))
    songs = np.minimum(60, 5 + 6 * random.pareto(1.0, artists)).astype(int)
    first = np.cumsum(songs) - songs
    artist_of = np.repeat(np.arange(artists), songs)
    tastes, active = random.dirichlet(np.full(40, 0.08), users), random.pareto(1.5, users) + 0.3
    heard: defaultdict[int, list[int]] = defaultdict(list)
    made, time_s = 0, 0
    while made < plays:
        user, artist = _draw(random, active), -1
        own = heard[user]
        for _ in range(3 + random.geometric(1 / 12)):
            if own and random.random() < 0.5:
                how = random.random()
                back = random.geometric(0.5) if how < 0.3 else 1 + random.exponential(40)
                song = own[-min(len(own), int(back))] if how < 0.75 else own[random.integers(len(own))]
                artist = int(artist_of[song])
            else:
                if artist < 0 or random.random() < 0.3:
                    stays = artist >= 0 and random.random() < 0.6
                    genre = int(genres[artist]) if stays else _draw(random, tastes[user])
                    artist = int(of_genre[genre][_draw(random, popular[of_genre[genre]])])
                song = int(first[artist]) + _draw(random, 1 / (3.0 + np.arange(songs[artist])))
            own.append(song)
            yield user, song, time_s
            made, time_s = made + 1, time_s + 200
        time_s += 60


def news(random: Generator, reads: int = 30_000, users: int = 2_000, articles: int = 4_000) -> Iterator[Event]:
    """Reads of articles that were never read by the user, by quality, age, the user's topics and the story of the last one."""
    topics, stories = random.integers(0, 25, articles), random.integers(0, articles // 15, articles)
    quality, life = random.pareto(1.1, articles) + 0.1, reads / 50
    born = np.sort(random.random(articles) * reads * 1.02 - reads / 50)
    tastes = random.dirichlet(np.full(25, 0.15), users)
    active = np.minimum(random.pareto(1.2, users) + 0.2, 15)
    read: defaultdict[int, set[int]] = defaultdict(set)
    last: dict[int, int] = {}
    made, time_s = 0, 0
    while made < reads:
        user = _draw(random, active)
        known = read[user]
        low, high = np.searchsorted(born, [made - 3 * life, made]).tolist()
        fresh = slice(low, high)
        odds = quality[fresh] * np.exp((born[fresh] - made) / life) * (tastes[user, topics[fresh]] + 0.01)
        odds[[article - low for article in known if low <= article < high]] = 0
        for _ in range(1 + random.geometric(0.35)):
            story = stories[fresh] == stories[last[user]] if user in last else False
            now = odds * np.where(story, 30, 1)
            if not now.sum() > 0:
                break
            article = low + _draw(random, now)
            odds[article - low] = 0
            known.add(article)
            last[user] = article
            yield user, article, time_s
            made, time_s = made + 1, time_s + 30
        time_s += 5


def _power(count: int, exponent: float) -> F64:
    return np.arange(1, count + 1, dtype=np.float64) ** -exponent


def _draw(random: Generator, odds: F64) -> int:
    """An index, with these odds."""
    running = np.cumsum(odds)
    return int(np.searchsorted(running, random.random() * running[-1], side="right").clip(max=len(odds) - 1))


STREAMS: dict[str, Callable[[Generator], Iterator[Event]]] = {"simulated-music": music, "simulated-news": news}


def write(folder: Path) -> list[Path]:
    """Write both streams into files in `folder`."""
    written = []
    for name, made in STREAMS.items():
        path = folder / f"{name}.csv"
        lines = [f"u{user},i{item},{FIRST_MS + 1000 * time_s}" for user, item, time_s in made(np.random.default_rng(7))]
        path.write_text("\n".join(["user_id,item_id,timestamp_ms", *lines, ""]))
        written.append(path)
    return written
