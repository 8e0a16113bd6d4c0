"""Calibration, groups of patients and uncertainty, recomputed here from predictions."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from flexcare_model.report.numbers import groups, uncertainty
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.scored import Scored, scored

BELOW = 10


@pytest.fixture(scope="module")
def ours(results):
    (run, *_) = results.runs_of("flexcare", "six_tasks")
    return run


def test_scores_are_matched_with_their_labels(results, output, ours):
    one = scored(results, ours, "readmission")
    predictions = pl.read_parquet(ours.folder / "predictions/readmission.parquet")
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet")
    labels = dict(cohort.select("sample_id", "label").rows())
    assert one.labels.tolist() == [labels[sample] for sample in predictions["sample_id"]]
    assert np.allclose(one.scores, predictions["score"].to_numpy())


def test_predictions_of_another_cohort_are_refused(results, ours, tmp_path):
    other = Results(tmp_path)
    (tmp_path / "cohorts").mkdir()
    results.cohorts["readmission"].head(3).write_parquet(tmp_path / "cohorts/readmission.parquet")
    with pytest.raises(ValueError, match="not in the cohort"):
        scored(other, ours, "readmission")


def test_reliability_by_hand():
    bins, error = groups.reliability(np.array([0.05, 0.15, 0.15, 1.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert bins.select("bin", "n", "observed").rows() == [(0, 1, 0.0), (1, 2, 0.5), (9, 1, 1.0)]
    assert error == pytest.approx((0.05 * 1 + 0.35 * 2 + 0.0) / 4)


def test_brier_equals_scikit_learn_and_the_definition(results, ours):
    one = scored(results, ours, "readmission")
    assert groups.brier(one) == pytest.approx(brier_score_loss(one.labels, one.scores))
    three = Scored("length_of_stay", one.cohort.head(2), np.array([0, 1]), np.array([[0.8, 0.2, 0], [0.5, 0.5, 0]]))
    assert groups.brier(three) == pytest.approx(((0.04 + 0.04) + (0.25 + 0.25)) / 2)


def test_uncertain_and_blank_labels_do_not_count(results, ours):
    one = scored(results, ours, "diagnosis")
    score, happened = groups.confidences(one)
    assert score.size == int((one.labels > -1).sum())
    assert happened.sum() == int((one.labels == 1).sum())


def test_groups_of_patients_by_hand():
    cohort = pl.DataFrame({"stay_id": [1, 2, 3, None]}, schema={"stay_id": pl.Int64})
    stays = pl.DataFrame(
        {
            "stay_id": [1, 2, 3],
            "gender": ["F", "M", None],
            "age": [44, 45, 91],
            "race": ["WHITE - RUSSIAN", "BLACK/CAPE VERDEAN", "UNABLE TO OBTAIN"],
            "first_careunit": ["MICU", "SICU", None],
        }
    )
    found = groups.with_groups(cohort, stays)
    assert found["sex"].to_list() == ["female", "male", "unknown", "no ICU stay"]
    assert found["age"].to_list() == ["18 to 44", "45 to 64", "80 or older", "no ICU stay"]
    assert found["race"].to_list() == ["white", "black", "other or unknown", "no ICU stay"]
    assert found["unit"].to_list() == ["MICU", "SICU", "unknown", "no ICU stay"]


def test_group_metrics_are_those_of_the_group_and_small_groups_have_none(results, output):
    frame = groups.subgroups(results, below=BELOW)
    stays = pl.read_parquet(output / "data/stays.parquet")
    runs = results.runs_of("flexcare", "six_tasks")
    values = []
    for run in runs:
        one = scored(results, run, "phenotyping")
        women = one.cohort.join(stays.filter(gender="F"), on="stay_id", how="left")["gender"].is_not_null().to_numpy()
        labels, scores = one.labels[women], one.scores[women]
        values.append(np.mean([roc_auc_score(labels[:, c], scores[:, c]) for c in range(labels.shape[1])]))
    row = frame.filter(task="phenotyping", method="FlexCare", level="female", metric="macro_auroc")
    assert row["value"].item() == pytest.approx(np.mean(values))
    small = frame.filter(pl.col("n_text") == "<10")
    assert small.height and small["value"].is_null().all()


def test_estimates_are_the_metrics_and_comparisons_their_differences(results):
    estimates, compared = uncertainty.bootstrap(results, replicates=40)
    one = [scored(results, run, "readmission") for run in results.runs_of("flexcare", "six_tasks")]
    expected = np.mean([roc_auc_score(each.labels, each.scores) for each in one])
    row = estimates.filter(task="readmission", metric="auroc", method="FlexCare").row(0, named=True)
    assert row["value"] == pytest.approx(expected)
    assert row["low"] < row["value"] < row["high"]
    other = estimates.filter(task="readmission", metric="auroc", method="MT")["value"].item()
    difference = compared.filter(task="readmission", metric="auroc", method="MT").row(0, named=True)
    assert difference["difference"] == pytest.approx(expected - other)
    assert difference["family"] == compared.height == 6 * 12
    assert (compared["p_both_holm"] >= compared["p_both"]).all()
    assert estimates.equals(uncertainty.bootstrap(results, replicates=40)[0])
