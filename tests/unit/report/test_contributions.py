"""Contribution of each modality and scores with lost data: recomputed from the scores of the subsets."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from support.fabricated_results import fabricate_analysis
from support.fabricated_samples import write_output
from support.recomputed_evaluation import added

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.tasks import TASKS
from flexcare_model.analysis.inside import DROP_RATES, score_with_less
from flexcare_model.analysis.lost_data import LessInside
from flexcare_model.data.dataset import load_task
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import MODELS, ModelConfig
from flexcare_model.report.numbers.contributions import contributions, losses, modality_tables, shapley
from flexcare_model.report.numbers.results import Results
from flexcare_model.training.evaluate import score


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    root = tmp_path_factory.mktemp("contributions")
    fabricate_analysis(root)
    return root


def test_contributions_are_means_over_all_orders_and_sum_to_the_whole(analysed):
    frame = contributions(Results(analysed), below=10)
    assert frame.height == 3 * 6 * 2
    for row in frame.to_dicts():
        experiment = "flexcare/six_tasks" if row["method"] == "FlexCare" else f"{row['method'].lower()}/{row['task']}"
        path = analysed / "analysis" / experiment / "seed40/modalities.parquet"
        part = pl.read_parquet(path).filter(task=row["task"], metric=row["metric"], kind="subset")
        values = dict(part.select("kept", "value").iter_rows())
        expected = added(values)
        for name, letter in (("time_series", "T"), ("image", "I"), ("note", "N")):
            assert row[name] == pytest.approx(expected[letter], abs=1e-9)
        total = row["time_series"] + row["image"] + row["note"]
        assert total == pytest.approx(row["all"] - row["none"], abs=1e-9)
        assert (row["none"], row["all"]) == (values[""], values["TIN"])


def test_a_modality_that_adds_nothing_and_two_that_are_the_same():
    values = {"": 0.5, "T": 0.7, "I": 0.7, "N": 0.5, "TI": 0.7, "TN": 0.7, "IN": 0.7, "TIN": 0.7}
    assert shapley(values) == {"T": pytest.approx(0.1), "I": pytest.approx(0.1), "N": 0.0}


def test_few_samples_and_undefined_metrics_have_no_numbers(analysed, tmp_path):
    """60 samples have all three modalities, 140 are there."""
    assert contributions(Results(analysed), below=100).height == 0
    assert losses(Results(analysed), below=100).height and losses(Results(analysed), below=200).height == 0
    source = analysed / "analysis/flexcare/six_tasks/seed40/modalities.parquet"
    target = tmp_path / source.relative_to(analysed)
    target.parent.mkdir(parents=True)
    hidden = (pl.col("task") == "readmission") & (pl.col("metric") == "auroc")
    pl.read_parquet(source).with_columns(value=pl.when(~hidden).then("value")).write_parquet(target)
    first, second = modality_tables(Results(tmp_path), below=10)
    for layout in (first, second):
        row = next(row for row in layout.rows if row[0].text == "REA AUROC")
        assert row[-2].text == "not defined"
    assert (
        contributions(Results(tmp_path), below=10).filter(task="readmission", metric="auroc")["all"].null_count() == 1
    )
    assert modality_tables(Results(tmp_path / "nothing"), below=10) == ()


def test_losses_of_a_trained_model_are_those_of_the_reduced_samples(tmp_path):
    output = write_output(tmp_path, stays=24)
    data = {"readmission": load_task(output, "readmission", split=None, augment=False)}
    torch.manual_seed(0)
    model = MODELS["mt"](ModelConfig(hidden_dim=16, layers=1), {"readmission": 1})
    loader = BatchLoader(torch.device("cpu"))
    frame = score_with_less(model, data, loader, seed=1)
    assert frame.equals(score_with_less(model, data, loader, seed=1))
    kinds = {"subset", "drop_rate", "informative", "inside_time_series", "inside_image", "inside_note"}
    assert set(frame["kind"]) == kinds
    assert set(frame.filter(kind="subset")["kept"]) == {"", *COMBINATIONS}
    for kind in kinds - {"subset"}:
        part = frame.filter(kind=kind, metric="auroc")
        assert part["rate"].to_list() == list(DROP_RATES) and part["n"].n_unique() == 1
    dataset = data["readmission"]
    for column, modality in enumerate(("time_series", "image", "note")):
        having = dataset.subset(dataset.present[:, column].nonzero()[0])
        for rate, used in ((0.0, having), (0.6, LessInside(having, modality, 0.6, seed=1))):
            expected = score(model, used, loader, batch_size=32).metrics
            found = frame.filter(kind=f"inside_{modality}", rate=rate)
            assert dict(found.select("metric", "value").iter_rows()) == pytest.approx(expected)
            assert found["n"].unique().to_list() == [len(having)]
    prevalence = float(dataset.subset(dataset.present.all(axis=1).nonzero()[0]).labels.mean())
    empty = dict(frame.filter(kind="subset", kept="").select("metric", "value").iter_rows())
    assert empty == pytest.approx({"auroc": 0.5, "auprc": prevalence, "average_precision": prevalence})
    assert set(empty) == {*TASKS["readmission"].metrics, "average_precision"}
