"""Models of the field as candidates: the learner then predicts what was fitted offline, with rows rotated onto its own."""

from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from commands import run
from learning import settings
from process import streamer
from renormalising import answers, drained
from training import CHOSEN, Fed

from streamer.checks.batches import Feed, sample_events
from streamer.core.errors import BadSettings, MissingExtra, StreamerError
from streamer.core.protocols import Factorised, Factors, Rater
from streamer.models import LEARNERS, REFITTED_BY, learner, trainer
from streamer.models.biased_mf import BiasedMF
from streamer.models.offline import FACTORISING, MODELS, model
from streamer.models.offline.factorisation import factors
from streamer.models.offline.factorisation.factors import (
    FactorsParameters,
    FittedFactors,
    reduce_dimensions,
    write_factors,
)
from streamer.producers.client import Client
from streamer.renormalise import manifest
from streamer.renormalise.training import candidate, refit
from streamer.storage import generations

SAME = 1e-4


def test_the_registry_names_those_that_factorise() -> None:
    for name in MODELS:
        made = model(name, seed=1)
        factorises = isinstance(made, Factorised) and isinstance(made, Rater) and name != "bias"
        assert (name in FACTORISING) == factorises, name
    assert all(name in LEARNERS and REFITTED_BY[name] == "factors" for name in FACTORISING if name != "als")


def learned(count: int = 900) -> tuple[Feed, BiasedMF]:
    feed = Feed(learner("biased-mf", seed=1, dim=4))
    feed.learn(sample_events(count))
    assert isinstance(feed.learner, BiasedMF)
    return feed, feed.learner


@pytest.mark.parametrize("dim", [2, 4])
def test_the_learner_predicts_what_the_model_was_fitted_to(dim: int) -> None:
    """For all pairs, whatever the scale, the mean and the rotation, also if the learner has more factors than the model."""
    feed, made = learned()
    batch = feed.batch(sample_events(900))
    random = np.random.default_rng(2)
    users, items = len(made.user.values), len(made.item.values)
    known = Factors(
        *(random.normal(0, 0.4, (count, dim)).astype(np.float32) for count in (users, items)),
        *(random.normal(0, 0.3, count).astype(np.float32) for count in (users, items)), mean=7.0,
    )  # fmt: skip
    data = FittedFactors("factors", FactorsParameters())._chosen(batch, made)
    write_factors(made, known, data)
    said = made.predict(batch)[batch.kinds == 0]
    u, i = data.users, data.items
    targets = 7.0 + known.user_biases[u] + known.item_biases[i] + (known.users[u] * known.items[i]).sum(1)
    np.testing.assert_allclose(said, targets, atol=SAME)


def test_rows_are_rotated_to_the_former_ones_and_grow_alike() -> None:
    """The learner's own factors, rotated and ten times as long on one side, come back as they were, if their mean is 0."""
    feed, made = learned()
    batch = feed.batch(sample_events(900))
    data = FittedFactors("factors", FactorsParameters())._chosen(batch, made)
    for table, rows in ((made.user, data.users), (made.item, data.items)):
        table.values[:, :4] -= table.values[np.unique(rows), :4].mean(axis=0)
    users, items = made.user.values.copy(), made.item.values.copy()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0]
    foreign = Factors(
        (10.0 * users[:, :4] @ turn).astype(np.float32), (0.1 * items[:, :4] @ turn).astype(np.float32),
        users[:, 4], items[:, 4], float(made.stream.values[0, 1]),
    )  # fmt: skip
    sigma = float(np.sqrt((1 + made.stream.values[0, 2]) / (1 + made.stream.values[0, 0])))
    foreign = foreign._replace(
        users=foreign.users * np.float32(sigma), user_biases=foreign.user_biases * np.float32(sigma),
        item_biases=foreign.item_biases * np.float32(sigma),
    )  # fmt: skip
    write_factors(made, foreign, data)
    np.testing.assert_allclose(made.item.values, items, atol=1e-3)
    np.testing.assert_allclose(made.user.values, users, atol=1e-3)
    assert np.array_equal(made.item.values[:, 5], items[:, 5])  # counts are the history's


def test_the_mean_of_factors_becomes_biases_and_does_not_lengthen_rows() -> None:
    """As with two towers, whose product contains the biases: the gate refuses rows of twice the length."""
    feed, plain = learned()
    other = learned()[1]
    data = FittedFactors("factors", FactorsParameters())._chosen(feed.batch(sample_events(900)), plain)
    random = np.random.default_rng(5)
    users, items = len(plain.user.values), len(plain.item.values)
    p, q = (random.normal(0, 0.3, (count, 4)).astype(np.float32) for count in (users, items))
    p, q = p - p[np.unique(data.users)].mean(axis=0), q - q[np.unique(data.items)].mean(axis=0)
    b, c = (random.normal(0, 0.3, count).astype(np.float32) for count in (users, items))
    shift = np.array([1.0, -2.0, 0.5, 0.0], dtype=np.float32)
    write_factors(plain, Factors(p, q, b, c, 3.0), data)
    write_factors(other, Factors(p + shift, q - shift, b + p @ shift, c - q @ shift, 3.0 + float(shift @ shift)), data)
    for before, after in ((plain.user, other.user), (plain.item, other.item)):
        np.testing.assert_allclose(after.values, before.values, atol=1e-3)


def test_of_too_many_factors_the_most_important_are_kept() -> None:
    random = np.random.default_rng(4)
    users, items = random.normal(size=(30, 6)).astype(np.float32), random.normal(size=(20, 6)).astype(np.float32)
    exact = users.astype(np.float64) @ items.T.astype(np.float64)
    for dim in (2, 6, 9):
        p, q = reduce_dimensions(users, items, dim)
        assert (p.shape, q.shape) == ((30, dim), (20, dim))
        sizes = np.linalg.svd(exact, compute_uv=False)
        assert np.linalg.norm(exact - p @ q.T) == pytest.approx(np.linalg.norm(sizes[dim:]), abs=1e-4)


def test_a_model_that_does_not_factorise_and_a_learner_without_factors_are_refused() -> None:
    feed = Feed(learner("biased-mf", seed=1))
    batch = feed.batch(sample_events(100))
    with pytest.raises(BadSettings, match="the model popularity does not factorise ratings"):
        FittedFactors("factors", FactorsParameters(model="popularity")).fit(feed.learner, batch, lambda share: None)
    other = Feed(learner("bias", seed=1))
    with pytest.raises(StreamerError, match="fits learners like biased-mf, not bias"):
        trainer("factors").fit(other.learner, other.batch(sample_events(10)), lambda share: None)


def test_a_candidate_of_a_model_changes_biased_mf_alone(tmp_path: Path) -> None:
    fed = Fed(tmp_path, CHOSEN)
    plain, other = (refit(fed.memory, fed.events(), chosen=candidate(name)) for name in ("all", "model:als"))
    for name in plain.tables:
        same = all(np.array_equal(plain.tables[name][called], values) for called, values in other.tables[name].items())
        assert same == (name != "biased-mf"), name
    fed.store.close()


def test_learners_named_like_a_model_are_fitted_by_it_whatever_the_candidate_names(tmp_path: Path) -> None:
    fed = Fed(tmp_path, settings(rating_learner="biased-mf", click_learner="skip-gram", shadow=("stochastic-mf",)))
    plain, other = (
        refit(fed.memory, fed.events(), ["biased-mf", "stochastic-mf"], candidate(name))
        for name in ("all", "model:als")
    )
    assert np.array_equal(plain.tables["stochastic-mf"]["item"], other.tables["stochastic-mf"]["item"])
    assert not np.array_equal(plain.tables["biased-mf"]["item"], other.tables["biased-mf"]["item"])
    fed.store.close()


def test_item_vectors_of_a_model_of_clicks_become_skip_grams(tmp_path: Path) -> None:
    """Similarities of items in the model become those in the learner, at the former lengths; items without clicks stay."""
    fed = Fed(tmp_path, CHOSEN)
    plain, other = (
        refit(fed.memory, fed.events(), ["skip-gram"], candidate(name)) for name in ("all", "model:youtube-dnn")
    )
    before, after = (found.tables["skip-gram"]["item"] for found in (plain, other))
    dim = before.shape[1] // 2 - 1  # behind v and x are their sums of squares
    moved = (before != after).any(axis=1)
    assert np.count_nonzero(moved) > 20
    lengths = [np.median(np.linalg.norm(rows[moved, :dim], axis=1)) for rows in (before, after)]
    assert 0.5 < lengths[1] / lengths[0] < 2.0  # as the gate wants
    cosines = np.sum(after[moved, :dim] * after[moved, dim : 2 * dim], axis=1) / (
        np.linalg.norm(after[moved, :dim], axis=1) * np.linalg.norm(after[moved, dim : 2 * dim], axis=1)
    )
    np.testing.assert_allclose(cosines, 1.0, atol=1e-4)  # one vector an item, read and scored with
    assert not np.array_equal(plain.tables["skip-gram"]["user"], other.tables["skip-gram"]["user"])
    fed.store.close()


def test_a_candidate_of_a_model_without_a_learner_to_fit_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Fed(tmp_path)
    refit(fed.memory, fed.events(), ["skip-gram", "biased-mf"], candidate("model:als"))
    assert not caplog.text
    refit(fed.memory, fed.events(), ["skip-gram"], candidate("model:als"))
    assert "the candidate model:als refits biased-mf" in caplog.text
    fed.store.close()


def test_where_torch_is_missing_the_learner_is_carried_over_and_the_others_are_refitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fed = Fed(tmp_path, settings(rating_learner="biased-mf", click_learner="skip-gram", shadow=("stochastic-mf",)))

    def resolved(name: str) -> object:
        if name.startswith("streamer.models.offline.factorisation.stochastic_mf:"):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return resolve_name(name)

    monkeypatch.setattr("streamer.models.resolve_name", resolved)
    found = refit(fed.memory, fed.events())
    assert "stochastic-mf" not in found.tables
    assert {"biased-mf", "skip-gram"} <= found.tables.keys()
    assert "stochastic-mf is carried over as it is" in caplog.text
    assert "streamer-recs[offline]" in caplog.text
    with pytest.raises(MissingExtra):
        factors.model("stochastic-mf", seed=1)
    fed.store.close()


def test_challengers_of_the_field_are_retrained_swapped_promoted_and_asked_to_rerank_and_torch_never_serves(
    tmp_path: Path,
) -> None:
    """They run as shadows, are refitted by torch in another process, and answer once promoted."""
    path, data = tmp_path / "world.jsonl", tmp_path / "d"
    run("simulate", path, "--users", "60", "--items", "80", "--events", "3000", "--duplicates", "0", "--bad", "0")
    flags = (
        "--rating-learner", "biased-mf", "--shadow", "stochastic-mf,deep-fm,gru4rec", "--reranker", "deep-fm",
        "--rerank-deadline-ms", "10000", "--candidates", "model:stochastic-mf", "--renormalise-every-events", "2000", "--hold",
    )  # fmt: skip
    with streamer(data, "--replay", path, *flags) as process, Client(process.url) as client:
        drained(client, path.read_bytes().count(b"\n"))
        answers(client, "g1")
        assert generations.read_record(data, "g1").candidate == "model:stochastic-mf"
        trained = manifest.read(generations.generation_folder(data, "g1"))[0].trained
        assert {"biased-mf", "stochastic-mf", "deep-fm", "gru4rec"} <= trained.keys(), process.output.read_text()
        assert "deep-fm" in client.recommend("u1", 5).items[0].source
        for name in ("stochastic-mf", "gru4rec"):
            run("promote", "learner", name, "--url", process.url)
            assert name in [one.name for one in client.status().learners if one.champion]
        assert client.predict("u1", "i1").source.startswith("stochastic-mf")
        assert len(client.recommend("u1", 5).items) == 5
        loaded = Path(f"/proc/{process.process.pid}/maps").read_text()
        assert "rocksdict" in loaded  # libraries are seen there
        assert "libtorch" not in loaded
