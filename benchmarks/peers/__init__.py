"""The registry of peers. A new peer is one file and one line."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import msgspec

TUNED = Path(__file__).parents[1] / "results"  # the folder of tuning-NAME.json

# Name to "module:Class"; the class is a benchmarks.protocols.Peer.
PEERS = {
    "river-baseline": "benchmarks.peers.river_baseline:RiverBaseline",
    "river-biased-mf": "benchmarks.peers.river_biased_mf:RiverBiasedMF",
    "river-fm": "benchmarks.peers.river_fm:RiverFM",
    "vowpal-wabbit": "benchmarks.peers.vowpal_wabbit:VowpalWabbit",
    "gensim-word2vec": "benchmarks.peers.gensim_word2vec:GensimWord2Vec",
    "implicit-als": "benchmarks.peers.implicit_als:ImplicitALS",
    "ease": "benchmarks.peers.ease:EASE",
    "item-knn": "benchmarks.peers.item_knn:ItemKNN",
    "v-sknn": "benchmarks.peers.v_sknn:VSKNN",
    "vmis-knn": "benchmarks.peers.vmis_knn:VMISKNN",
    "gru4rec-refitted": "benchmarks.peers.gru4rec:GRU4Rec",
}


def peer(name: str) -> Any:
    """The class; its library need not be installed."""
    return resolve_name(PEERS[name])


def best(name: str, stream: str) -> Any:
    """The best settings of a peer that `benchmarks.tune` found on the stream of this name; None if it was not searched there."""
    file = TUNED / f"tuning-{stream}.json"
    found = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    return msgspec.convert(found[name]["best"]["settings"], peer(name).Settings) if name in found else None


def missing(name: str) -> str | None:
    """The reason why the peer cannot run here; None if it can."""
    package = peer(name).package
    if package is None:
        return None
    try:
        version(package)
    except PackageNotFoundError:
        return f"{package} is not installed: `make bench` installs what the peers need"
    return None
