"""Readable, distinct titles for simulated films, such as "The Quiet Harbour (1987)"."""

import numpy as np

from streamer.core.arrays import I32

CATEGORIES = (
    "Adventure", "Comedy", "Crime", "Documentary", "Drama", "Family",
    "Fantasy", "History", "Music", "Mystery", "Romance", "Science Fiction",
)  # fmt: skip

_ADJECTIVES_TEXT = """
    Amber Ancient Bitter Blue Borrowed Broken Burning Careful Copper Crooked Distant Electric Empty Endless Faithful
    Fearless Forgotten Frozen Gentle Golden Hidden Hollow Honest Hungry Last Little Lonely Long Lost Lucky Midnight Naked
    Northern Patient Perfect Pale Quiet Reckless Restless Rising Salt Second Secret Silent Silver Stolen Velvet Winter
"""
_NOUNS_TEXT = """
    Admiral Anchor Archive Astronomer Autumn Balcony Bell Bridge Candle Captain Cartographer Circus City Clockmaker Compass
    Daughter Detective Door Dream Echo Engine Feast Field Fire Fisherman Forest Game Garden Gardener Ghost Guest Harbour
    Horizon House Island Journey Kingdom Lantern Letter Library Lighthouse Machine Map Mirror Mountain Neighbour Ocean
    Orchard Painter Photograph Piano Planet Promise River Road Sailor Season Shadow Song Stranger Summer Train Violin Voyage
"""
_PLACES_TEXT = """
    Alexandria Bergen Bruges Calcutta Carthage Cork Dakar Delphi Eden Galway Geneva Havana Hobart Istanbul Kyoto Lima
    Lisbon Malta Marrakesh Naples Odessa Oslo Porto Quebec Riga Samarkand Seville Tangier Trieste Valparaiso Vienna Zanzibar
"""
_ADJECTIVES, _NOUNS, _PLACES = _ADJECTIVES_TEXT.split(), _NOUNS_TEXT.split(), _PLACES_TEXT.split()
_PLAIN = len(_ADJECTIVES) * len(_NOUNS)
DISTINCT = 2 * _PLAIN + len(_NOUNS) * len(_PLACES)  # number of titles without sequels


def title(number: int, year: int) -> str:
    """The title with this number, all different; numbers from DISTINCT on are sequels."""
    sequel, number = divmod(number, DISTINCT)
    form, rest = divmod(number, _PLAIN)
    first, noun = divmod(rest, len(_NOUNS))
    if form == 2:
        name = f"The {_NOUNS[noun]} of {_PLACES[first]}"
    else:
        name = f"{'The ' if form else ''}{_ADJECTIVES[first]} {_NOUNS[noun]}"
    return f"{name}{f' {sequel + 1}' if sequel else ''} ({year})"


def numbers(items: int, random: np.random.Generator) -> I32:
    """(items,) distinct numbers of titles in random order; sequels only once all first parts are used."""
    whole = -(-items // DISTINCT)
    shuffled = [random.permutation(DISTINCT) + part * DISTINCT for part in range(whole)]
    return np.concatenate(shuffled)[:items].astype(np.int32)
