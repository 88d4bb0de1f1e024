"""Side information from the catalogue and the profiles, as arrays for models that are trained on a whole history."""

from collections.abc import Sequence

import numpy as np

from streamer.core.arrays import F32
from streamer.core.dataset import SideInformation
from streamer.stream.memory import Memory


def side_information(memory: Memory, user_ids: Sequence[str]) -> SideInformation:
    """Categories, titles and years of all items, by row; groups of `user_ids`, in their order. Cost: reads each user's profile."""
    items, names = memory.items, memory.categories.names
    years = [
        items.catalogue[item_id].attributes.get("year") if item_id in items.catalogue else None for item_id in items.ids
    ]
    groups: F32 = np.zeros((len(user_ids), len(memory.users.profiles.group_of)), dtype=np.float32)
    for row, user_id in enumerate(user_ids):
        _, of = memory.users.profiles.read(memory.users.profile(user_id))
        groups[row, list(of)] = 1.0
    bits = np.unpackbits(memory.categories.words.values[: len(items)].view(np.uint8), axis=1, bitorder="little")
    return SideInformation(
        user_ids=user_ids,
        item_ids=list(items.ids),
        titles=[items.title(item_id) for item_id in items.ids],
        category_names=list(names),
        categories=bits[:, : len(names)].astype(np.float32),
        years=np.array([year if type(year) in (int, float) else np.nan for year in years], dtype=np.float32),
        group_names=list(memory.users.profiles.group_of),
        groups=groups,
    )
