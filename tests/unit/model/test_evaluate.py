"""Evaluation and prediction: files of the contract, numbers recounted from them, any subset of the modalities."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from support.fabricated_samples import write_output

from flexcare_data.modalities import COMBINATIONS
from flexcare_data.options import PAPER_TASKS
from flexcare_data.tasks import TASKS
from flexcare_model.__main__ import main
from flexcare_model.data.dataset import load_task
from flexcare_model.data.index import SampleError, number_of_classes
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import MODELS
from flexcare_model.training.bank import fill_bank
from flexcare_model.training.checkpoint import load_model, save_model
from flexcare_model.training.evaluate import evaluate_run, score
from flexcare_model.training.metrics import compute
from flexcare_model.training.metrics import written as in_file
from flexcare_model.training.predict import predict
from flexcare_model.training.run_config import resolve_run

CPU = BatchLoader(torch.device("cpu"))
SMALL = {"hidden_dim": 8, "layers": 1, "batch_size": 8, "max_hours": 12}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"), tokens=(1, 5))


def write_run(output, model="flexcare", experiment="six_tasks"):
    """An untrained run: evaluation does not care how good the weights are."""
    folder = output / "runs" / model / experiment / "seed40"
    run, _ = resolve_run(model, experiment, 40, SMALL)
    outputs = {task: TASKS[task].n_outputs or number_of_classes(output, task) for task in run.tasks}
    torch.manual_seed(0)
    untrained = MODELS[model](run.settings, outputs)
    if untrained.bank_size:
        data = load_task(output, experiment, "train", max_hours=12)
        fill_bank(untrained, data, CPU, seed=40, batch_size=8, precision="float32")
    save_model(folder, untrained.state_dict(), run, outputs)
    return folder


@pytest.fixture(scope="module")
def run(output):
    folder = write_run(output)
    evaluate_run(output, folder, CPU, best_epoch=7)
    return folder


def test_metrics_and_predictions_of_all_tasks(output, run):
    written = json.loads((run / "metrics.json").read_text())
    assert written["parameters"] == sum(value.numel() for value in load_model(run)[0].parameters())
    assert {name: written[name] for name in ("model", "experiment", "seed", "split", "epoch")} == {
        "model": "flexcare", "experiment": "six_tasks", "seed": 40, "split": "test", "epoch": 7,
    }  # fmt: skip
    assert set(written["metrics"]) == set(PAPER_TASKS[:-1])
    for name, metrics in written["metrics"].items():
        cohort = pl.read_parquet(output / f"cohorts/{name}.parquet").filter(pl.col("split") == "test")
        table = pl.read_parquet(run / f"predictions/{name}.parquet")
        assert table["sample_id"].to_list() == cohort["sample_id"].to_list()
        assert written["n"][name] == cohort.height
        labels = cohort.select(TASKS[name].labels).to_numpy()
        scores = table.drop("sample_id")
        assert set(scores.dtypes) == {pl.Float32}
        recounted = compute(name, labels[:, 0] if labels.shape[1] == 1 else labels, scores.to_numpy())
        assert metrics == pytest.approx(in_file(recounted), abs=1e-6)


def test_a_metric_that_is_not_defined_is_null(tmp_path):
    """All answers of readmission are 0, and no radiograph has an assessed finding: neither 0.5 nor 0.0 is written."""
    folder = write_output(tmp_path, tokens=(1, 5))
    for task in ("readmission", "diagnosis"):
        path = folder / f"cohorts/{task}.parquet"
        blank = pl.lit(0 if task == "readmission" else -2, dtype=pl.Int64)
        pl.read_parquet(path).with_columns(blank.alias(label) for label in TASKS[task].labels).write_parquet(path)
    run = write_run(folder)
    returned = evaluate_run(folder, run, CPU)
    content = json.loads((run / "metrics.json").read_text())
    assert content["metrics"]["readmission"] == {"auroc": None, "auprc": None, "average_precision": None}
    assert content["metrics"]["diagnosis"] == {"macro_auroc": None, "micro_auroc": None}
    assert content["one_class"]["readmission"] == ["label"]
    assert content["one_class"]["diagnosis"] == list(TASKS["diagnosis"].labels)
    assert content["metrics"] == returned
    assert content["metrics"]["length_of_stay"]["micro_f1"] is not None


def test_columns_of_predictions(run):
    names = list(PAPER_TASKS[:-1])
    columns = {name: pl.read_parquet(run / f"predictions/{name}.parquet").columns[1:] for name in names}
    assert columns["readmission"] == ["score"]
    assert columns["diagnosis"] == list(TASKS["diagnosis"].labels)
    assert columns["length_of_stay"] == [f"class_{k}" for k in range(10)]
    los = pl.read_parquet(run / "predictions/length_of_stay.parquet").drop("sample_id").to_numpy()
    np.testing.assert_allclose(los.sum(axis=1), 1.0, rtol=1e-5)


def test_evaluating_again_gives_the_same_bytes(output, run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    evaluate_run(output, run, CPU)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_scores_do_not_depend_on_the_batch_size_and_the_mode_is_kept(output, run):
    model, _ = load_model(run)
    model.train()
    data = load_task(output, "phenotyping", "test", max_hours=12)
    one, two = (score(model, data, CPU, batch_size=size).scores for size in (3, 64))
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert model.training


def test_evaluating_m3care_again_gives_the_same_metrics(output):
    folder = write_run(output, "m3care", "diagnosis")
    one, two = (evaluate_run(output, folder, CPU) for _ in range(2))
    assert one == two


def test_metrics_without_a_modality(output, run):
    model, settings = load_model(run)
    data = load_task(output, "diagnosis", "test", max_hours=12)
    all_of_them = score(model, data, CPU, batch_size=8).metrics
    less = score(model, data.without("image"), CPU, batch_size=settings.batch_size).metrics
    assert set(less) == set(all_of_them)
    bare = load_task(output, "diagnosis", "test", max_hours=12, modalities=["time_series", "note"])
    assert less == score(model, bare, CPU, batch_size=8).metrics


def test_predict_says_what_was_used(output, run):
    frame = predict(run, "diagnosis")
    cohort = pl.read_parquet(output / "cohorts/diagnosis.parquet").filter(pl.col("sample_id") != "50001")
    assert frame["sample_id"].to_list() == cohort["sample_id"].to_list()
    expected = [
        ("T" if row["n_hours"] is not None else "") + "I" + ("N" if row["note_id"] is not None else "")
        for row in cohort.iter_rows(named=True)
    ]
    assert frame["modalities"].to_list() == expected
    weights = frame.select(f"weight_{name}" for name in COMBINATIONS).to_numpy()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
    for modalities, combinations, row in zip(expected, frame["combinations"], weights, strict=True):
        usable = [name for name in COMBINATIONS if set(name) <= set(modalities)]
        assert combinations.split(",") == usable
        assert [name for name, weight in zip(COMBINATIONS, row, strict=True) if weight > 0] == usable
        assert len(usable) == {1: 1, 2: 3, 3: 7}[len(modalities)]


def test_predictions_of_the_test_split_are_those_of_the_run(run):
    for task in ("in_hospital_mortality", "diagnosis"):
        written = pl.read_parquet(run / f"predictions/{task}.parquet")
        frame = predict(run, task, split="test").select(written.columns)
        assert frame["sample_id"].to_list() == written["sample_id"].to_list()
        np.testing.assert_allclose(frame.drop("sample_id"), written.drop("sample_id"), atol=1e-6)


@pytest.mark.parametrize("without", [["image"], ["note"], ["time_series"], ["image", "note"], ["time_series", "note"]])
def test_predict_with_fewer_modalities(output, run, without):
    frame = predict(run, "diagnosis", without=without)
    left = {"time_series": "T", "image": "I", "note": "N"}.items()
    allowed = {letter for name, letter in left if name not in without}
    assert frame.height and all(set(text) <= allowed for text in frame["modalities"])
    whole = load_task(output, "diagnosis", None)
    kept = whole.present[:, [name not in without for name in ("time_series", "image", "note")]].any(axis=1)
    assert frame.height == kept.sum()


def test_the_command(output, run, tmp_path):
    out = tmp_path / "scores.csv"
    arguments = ["predict", "--run", str(run), "--task", "readmission", "--split", "val", "--device", "cpu"]
    assert main([*arguments, "--without", "image", "--without", "note", "--out", str(out)]) == 0
    frame = pl.read_csv(out)
    assert frame.height == len(load_task(output, "readmission", "val"))
    assert set(frame["modalities"]) == {"T"} and set(frame["weight_T"]) == {1.0}


def test_a_cohort_of_ones_own_without_labels(output, run, tmp_path):
    cohort = pl.read_parquet(output / "cohorts/length_of_stay.parquet").drop("label").head(4)
    cohort.write_parquet(tmp_path / "mine.parquet")
    frame = predict(run, "length_of_stay", cohort=tmp_path / "mine.parquet")
    assert frame["sample_id"].to_list() == cohort["sample_id"].to_list()
    assert "class_9" in frame.columns


def test_a_baseline_has_scores_and_modalities_only(output):
    folder = write_run(output, "medfuse", "diagnosis")
    frame = predict(folder, "diagnosis", split="test")
    assert frame.columns == ["sample_id", *TASKS["diagnosis"].labels, "modalities"]


def test_errors(output, run, tmp_path, capsys):
    with pytest.raises(SampleError, match="expected a task of this run"):
        predict(run, "drg")
    assert main(["predict", "--run", str(tmp_path), "--task", "drg", "--out", str(tmp_path / "x.csv")]) == 1
    assert "expected config.json and model.safetensors" in capsys.readouterr().err


def test_train_command_writes_a_whole_run(output, tmp_path):
    settings = SMALL | {"tasks": ["readmission"], "epochs": 1, "threads": 1, "device": "cpu"}
    arguments = ["train", "--output", str(output), "--model", "flexcare", "--settings", json.dumps(settings)]
    assert main([*arguments, "--seed", "42", "--out", str(tmp_path)]) == 0
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "config.json", "model.safetensors", "history.parquet", "log.csv", "metrics.json",
        "predictions/readmission.parquet", "tensorboard/events.out.tfevents.run",
    }  # fmt: skip
    assert json.loads((tmp_path / "metrics.json").read_text())["epoch"] == 1
