"""The models of the field compared: five seeds each, against bias only on the same splits.

    python -m benchmarks.field path/to/ml-latest-small [NAME ...]      into benchmarks/results/field.{json,md}

Every fit is that of `streamer train PATH --model NAME --split random --test-share 0.2 --seed S`. If models are named, only these are measured again,
and the others keep their figures in the JSON. It takes some fifteen minutes of CPU.
"""

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.report import RESULTS
from benchmarks.tables import table
from streamer.consumers.files import FileSource
from streamer.core.protocols import Kind
from streamer.core.settings import load
from streamer.models.offline import MODELS
from streamer.study.train import Plan, train
from streamer.study.training_data import read

SEEDS = (1, 2, 3, 4, 5)
FILE = RESULTS / "field.json"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one model, one for each seed."""

    model: str
    kind: Kind
    path: str
    cpu_s: list[float]
    test_mse: list[float] = []
    bias_only_test_mse: list[float] = []
    hit_rate_10: list[float] = []
    ndcg_10: list[float] = []
    over_transitions: list[float] = []
    interval: tuple[float, float] | None = None  # of the first seed
    popularity_hit_rate_10: float | None = None


def measured(name: str, path: str) -> Measured:
    """Fit the model with every seed. Raises the same errors as `streamer train`."""
    settings = load({})
    data = read(FileSource(path), settings, lambda done, of: None).data
    fits, cpu = [], []
    for seed in SEEDS:
        began = time.process_time()
        fits.append(train(name, data, Plan(seed=seed), lambda name, epoch: None).trained)
        cpu.append(time.process_time() - began)
        sys.stderr.write(f"{name} {seed}: {fits[-1].test_mse or fits[-1].hit_rate_10}, {cpu[-1]:.1f} s\n")
    first, found = fits[0], {"model": name, "kind": fits[0].kind, "path": Path(path).name, "cpu_s": cpu}
    if first.kind == "ratings":
        return Measured(
            **found,  # type: ignore[arg-type]  # mypy does not know which field a value is for
            test_mse=[one.test_mse or 0.0 for one in fits],
            bias_only_test_mse=[one.bias_only_test_mse or 0.0 for one in fits],
        )
    return Measured(
        **found,  # type: ignore[arg-type]
        hit_rate_10=[one.hit_rate_10 or 0.0 for one in fits],
        ndcg_10=[one.ndcg_10 or 0.0 for one in fits],
        over_transitions=[one.hit_rate_10_over_transitions or 0.0 for one in fits],
        interval=first.hit_rate_10_over_transitions_interval,
        popularity_hit_rate_10=first.popularity_hit_rate_10,
    )


def page(found: list[Measured]) -> str:
    """The tables in Markdown."""
    ratings = sorted((one for one in found if one.test_mse), key=lambda one: float(np.mean(one.test_mse)))
    clicks = sorted((one for one in found if one.hit_rate_10), key=lambda one: -float(np.mean(one.hit_rate_10)))
    of = found[0].path
    rows = [
        [
            f"`{one.model}`", f"{np.mean(one.test_mse):.4f}",
            f"{np.mean(one.test_mse) / np.mean(one.bias_only_test_mse):.3f}", f"{np.sqrt(np.mean(one.test_mse)):.4f}",
            f"{np.mean(one.cpu_s):.1f}",
        ]
        for one in ratings
    ]  # fmt: skip
    next_items = [
        [
            f"`{one.model}`", f"{np.mean(one.hit_rate_10):.4f}", f"{np.mean(one.ndcg_10):.4f}",
            f"{np.mean(one.over_transitions):+.4f}",
            f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}" if one.interval else "", f"{np.mean(one.cpu_s):.1f}",
        ]
        for one in clicks
    ]  # fmt: skip
    return "\n".join([
        f"# The models of the field on {of}", "",
        f"Written by `python -m benchmarks.field path/to/{of}`: means over seeds {SEEDS[0]} to {SEEDS[-1]} of `streamer train`.", "",
        "Ratings, a random fifth as the test part; .76 is what a well-known course reports for its best model.", "",
        *table(["model", "test MSE", "of bias only's", "test RMSE", "s of CPU"], rows), "",
        "Next items, each user's last click among all items; the interval is that of seed 1, over resampled users.", "",
        *table(["model", "HR@10", "NDCG@10", "over one-pass transitions", "95% interval", "s of CPU"], next_items), "",
    ])  # fmt: skip


def main(path: str, *names: str) -> None:
    """Measure the models, and write both files after each."""
    known: dict[str, Measured] = {}
    if FILE.exists():
        known = {one.model: one for one in msgspec.json.decode(FILE.read_bytes(), type=list[Measured])}
    for name in names or MODELS:
        known[name] = measured(name, path)
        found = [known[one] for one in MODELS if one in known]
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        (RESULTS / "field.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
