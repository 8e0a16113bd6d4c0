"""What is read out of a model: expert counts, representations, scores with fewer modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from support.fabricated_samples import write_output

from flexcare_data.modalities import COMBINATIONS, LETTERS
from flexcare_data.tasks import TASKS
from flexcare_model.analysis import inside as analysis
from flexcare_model.data.dataset import load_task
from flexcare_model.data.index import SampleError
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import MODELS, ModelConfig
from flexcare_model.training.evaluate import score

LOADER = BatchLoader(torch.device("cpu"))
TASKS_HERE = ("readmission", "length_of_stay", "diagnosis")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_output(tmp_path_factory.mktemp("analysis"), stays=24)


@pytest.fixture(scope="module")
def datasets(folder):
    return {name: load_task(folder, name, split=None, augment=False) for name in TASKS_HERE}


@pytest.fixture(scope="module")
def model(datasets):
    torch.manual_seed(0)
    config = ModelConfig(hidden_dim=16, layers=1, experts=4)
    return MODELS["flexcare"](config, {name: dataset.n_outputs for name, dataset in datasets.items()})


@pytest.fixture(scope="module")
def collected(model, datasets):
    return analysis.collect(model, datasets, LOADER, seed=3)


def test_every_available_pair_chooses_k_experts(model, datasets, collected):
    _, experts = collected
    for name, dataset in datasets.items():
        for combination in model.combinations:
            letters = [LETTERS.index(letter) for letter in combination]
            pairs = int(dataset.present[:, letters].all(axis=1).sum())
            part = experts.filter(task=name, combination=combination)
            assert part.height == model.config.experts
            assert part["chosen"].sum() == pairs * model.config.experts_per_token


def test_representations_are_those_of_the_samples_and_repeatable(model, datasets, collected):
    frame, _ = collected
    again, _ = analysis.collect(model, datasets, LOADER, seed=3)
    assert frame.equals(again)
    assert frame.height == sum(len(dataset) for dataset in datasets.values())
    dataset = datasets["readmission"]
    with torch.no_grad():
        alone = model.eval()(dataset.batch([5]), details=True).details["rep"][0].numpy()
    row = frame.filter(task="readmission", sample_id=dataset.sample_ids[5])
    assert np.allclose(row["rep"].item().to_numpy(), alone, atol=1e-5)


def test_all_modalities_give_the_ordinary_scores(model, datasets):
    dataset = datasets["readmission"]
    scores = analysis.score_with_less(model, {"readmission": dataset}, LOADER)
    full = scores.filter(kind="drop_rate", rate=0.0, metric="auroc")["value"].item()
    assert full == pytest.approx(score(model, dataset, LOADER, batch_size=32).metrics["auroc"])
    assert scores.filter(kind="subset")["kept"].unique().sort().to_list() == sorted(["", *COMBINATIONS])
    assert scores.filter(kind="subset")["n"].n_unique() == 1


def test_the_image_subset_equals_a_data_set_without_the_others(model, datasets):
    dataset = datasets["diagnosis"]
    complete = dataset.subset(np.flatnonzero(dataset.present.all(axis=1)))
    expected = score(model, complete.without("time_series", "note"), LOADER, batch_size=32).metrics
    found = analysis.score_with_less(model, {"diagnosis": dataset}, LOADER).filter(kind="subset", kept="I")
    assert dict(found.select("metric", "value").rows()) == pytest.approx(expected)


def test_dropping_is_nested_and_leaves_something():
    rng = np.random.default_rng(0)
    present = rng.random((500, 3)) < 0.6
    present[~present.any(axis=1), 0] = True
    before = present
    for rate in analysis.DROP_RATES:
        kept = analysis.drop_modalities(present, rate, seed=1)
        assert kept.any(axis=1).all()
        assert not (kept & ~before).any()
        before = kept
    assert (analysis.drop_modalities(present, 0.0, seed=1) == present).all()
    lone = present.sum(axis=1) == 1
    assert (kept[lone] == present[lone]).all()
    three = np.ones((20_000, 3), dtype=bool)
    lost = 1 - analysis.drop_modalities(three, 0.4, seed=2).mean()
    assert lost == pytest.approx(0.4 - 0.4**3 / 3, abs=0.01)


def test_a_modality_that_a_sample_lacks_cannot_be_given_back(datasets):
    dataset = datasets["readmission"]
    with pytest.raises(SampleError, match="non-empty subset"):
        dataset.with_present(np.ones_like(dataset.present))


def test_separation_of_clear_and_of_mixed_groups():
    rng = np.random.default_rng(1)
    groups = np.repeat(["a", "b", "c"], 40)
    centres = np.repeat(np.eye(3) * 50, 40, axis=0)
    apart = analysis.separation(centres + rng.normal(size=(120, 3)), groups)
    mixed = analysis.separation(rng.normal(size=(120, 3)), groups)
    assert apart["knn_accuracy"] == 1.0 and apart["silhouette"] > 0.9
    assert mixed["knn_accuracy"] < 0.6 and abs(mixed["silhouette"]) < 0.1


def test_counted_by_hand():
    class Two:
        combinations = ("T", "I")
        config = ModelConfig(experts=3, experts_per_token=2)

    chosen = np.array([[[0, 2], [-1, -1]], [[2, 1], [0, 1]]])
    frame = analysis.count_experts("readmission", chosen, Two)
    assert frame.pivot("expert", index="combination", values="chosen").rows() == [("T", 1, 1, 2), ("I", 1, 1, 0)]
    assert set(frame["task"]) <= set(TASKS)
    assert isinstance(frame, pl.DataFrame)
