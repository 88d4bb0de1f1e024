"""The registry of peers. A new peer is one file and one line."""

from importlib.metadata import PackageNotFoundError, version
from pkgutil import resolve_name
from typing import Any

# Name to "module:Class"; the class is a benchmarks.protocols.Peer.
PEERS = {
    "river-baseline": "benchmarks.peers.river_baseline:RiverBaseline",
    "river-biased-mf": "benchmarks.peers.river_biased_mf:RiverBiasedMF",
    "river-fm": "benchmarks.peers.river_fm:RiverFM",
    "vowpal-wabbit": "benchmarks.peers.vowpal_wabbit:VowpalWabbit",
    "gensim-word2vec": "benchmarks.peers.gensim_word2vec:GensimWord2Vec",
    "implicit-als": "benchmarks.peers.implicit_als:ImplicitALS",
}


def peer(name: str) -> Any:
    """The class; its library need not be installed."""
    return resolve_name(PEERS[name])


def missing(name: str) -> str | None:
    """The reason why the peer cannot run here; None if it can."""
    package = peer(name).package
    try:
        version(package)
    except PackageNotFoundError:
        return f"{package} is not installed: `make bench` installs requirements/bench.lock"
    return None
