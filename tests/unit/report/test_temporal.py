"""The tables of the split by time, recomputed here from fabricated predictions."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from sklearn.metrics import brier_score_loss, f1_score, roc_auc_score
from support.fabricated_results import SIX, fabricate, split_by_time

from flexcare_model.cli import commands
from flexcare_model.report.about import About
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.temporal import split_losses, year_groups_table
from flexcare_model.report.pages.page import build_page
from flexcare_model.report.write import write_page

SEEDS = (40, 42)


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    """An output folder where the patients are split by time; only FlexCare on all tasks was trained."""
    root = fabricate(tmp_path_factory.mktemp("temporal") / "results", seed=11, baselines=(), variants=())
    for folder in (root / "runs/flexcare").iterdir():
        if folder.name != "six_tasks":
            shutil.rmtree(folder)
    split_by_time(root)
    return root


def expected_error(labels, scores):
    """ECE of ten bins (0, 0.1], (0.1, 0.2], ..., sample by sample."""
    bins = {}
    for label, value in zip(labels, scores, strict=True):
        bins.setdefault(min(9, max(0, int(np.ceil(round(value * 10, 8))) - 1)), []).append((label, value))
    gaps = [abs(sum(label - value for label, value in pairs)) for pairs in bins.values()]
    return sum(gaps) / len(labels)


def samples(root, task, split, seed):
    """Predictions of one seed joined with labels and groups of years."""
    run = root / ("runs" if split == "test" else "analysis") / f"flexcare/six_tasks/seed{seed}"
    predictions = pl.read_parquet(run / ("predictions" if split == "test" else "validation") / f"{task}.parquet")
    cohort = pl.read_parquet(root / f"cohorts/{task}.parquet")
    years = pl.read_parquet(root / "data/splits.parquet").drop("split")
    return predictions.join(cohort, on="sample_id").join(years, on="subject_id")


def mean(values):
    return pytest.approx(np.mean(list(values)))


def test_losses_are_the_differences_of_the_test_metrics(output, results, temporal):
    layout = split_losses(results, Results(temporal), below=10)
    row = layout.frame.filter(task="readmission", metric="auroc").row(0, named=True)
    sides = []
    for root in (output, temporal):
        frames = [samples(root, "readmission", "test", seed) for seed in SEEDS]
        values = [roc_auc_score(frame["label"], frame["score"]) for frame in frames]
        sides.append((np.mean(values), np.std(values, ddof=1), frames[0].height))
    assert (row["random"], row["random_sd"]) == pytest.approx(sides[0][:2])
    assert (row["temporal"], row["temporal_sd"]) == pytest.approx(sides[1][:2])
    assert row["difference"] == pytest.approx(sides[1][0] - sides[0][0])
    assert (row["n_random"], row["n_temporal"]) == tuple(str(side[2]) for side in sides)
    assert f"{row['difference']:+.4f}".replace("-", "−") in layout.to_markdown()
    assert set(layout.frame["method"]) == {"FlexCare"}
    assert layout.frame.height == len(SIX) * 4


def test_calibration_is_compared_too(output, results, temporal):
    frame = split_losses(results, Results(temporal), below=10).frame.filter(task="decompensation")
    for column, root in (("random", output), ("temporal", temporal)):
        found = [samples(root, "decompensation", "test", seed) for seed in SEEDS]
        pairs = [(each["label"].to_numpy(), each["score"].to_numpy().astype(float)) for each in found]
        assert frame.filter(metric="brier")[column].item() == mean(brier_score_loss(*pair) for pair in pairs)
        assert frame.filter(metric="ece")[column].item() == mean(expected_error(*pair) for pair in pairs)


def test_groups_of_years_have_their_own_metrics(temporal):
    (layout,) = year_groups_table(Results(temporal), below=10)
    assert layout.header[2:] == ("val, 2014 - 2016", "test, 2017 - 2019", "test, 2020 - 2022")
    rows = {(r["task"], r["split"], r["year_group"], r["metric"]): r for r in layout.frame.to_dicts()}
    for split, group in (("val", "2014 - 2016"), ("test", "2017 - 2019"), ("test", "2020 - 2022")):
        found = [samples(temporal, "length_of_stay", split, seed).filter(year_group=group) for seed in SEEDS]
        classes = [[column for column in frame.columns if column.startswith("class_")] for frame in found]
        answers = [frame.select(names).to_numpy().argmax(axis=1) for frame, names in zip(found, classes, strict=True)]
        row = rows["length_of_stay", split, group, "micro_f1"]
        assert row["n"] == str(found[0].height)
        assert row["value"] == mean(
            f1_score(frame["label"], answer, average="micro") for frame, answer in zip(found, answers, strict=True)
        )
    later = [samples(temporal, "readmission", "test", seed).filter(year_group="2017 - 2019") for seed in SEEDS]
    values = [roc_auc_score(frame["label"], frame["score"]) for frame in later]
    row = rows["readmission", "test", "2017 - 2019", "auroc"]
    assert (row["value"], row["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert f"{row['value']:.3f}" in layout.to_markdown()


def test_small_groups_are_hidden(temporal):
    """With a higher limit the newest group is small: no numbers of it, and the other group of test is hidden too."""
    counts = samples(temporal, "readmission", "test", 40)["year_group"].value_counts()
    newest = counts.filter(year_group="2020 - 2022")["count"].item()
    (layout,) = year_groups_table(Results(temporal), below=newest + 1)
    own = layout.frame.filter(task="readmission", split="test")
    assert set(own.filter(year_group="2020 - 2022")["n"]) == {f"<{newest + 1}"}
    assert set(own.filter(year_group="2017 - 2019")["n"]) == {"n.s."}
    assert own.filter(year_group="2020 - 2022")["value"].null_count() == 4


def test_a_hidden_size_of_a_split_is_not_the_sum_of_its_groups(temporal, tmp_path):
    """Few training samples: the table of the cohorts hides another split, so its only group is hidden here."""
    shutil.copytree(temporal, tmp_path / "results", symlinks=True)
    path = tmp_path / "results/cohorts/readmission.parquet"
    cohort = pl.read_parquet(path)
    train = cohort.filter(split="train")["sample_id"]
    path.unlink()
    cohort.filter(~pl.col("sample_id").is_in(train[5:].implode())).write_parquet(path)
    (layout,) = year_groups_table(Results(tmp_path / "results"), below=10)
    (cells,) = [row for row in layout.rows if row[0].text == "REA samples"]
    assert cells[2].text == "n.s."
    losses = split_losses(Results(temporal), Results(tmp_path / "results"), below=10)
    assert losses.frame.filter(task="readmission")["n_temporal"][0].isdigit()


def test_the_report_shows_the_groups_only_where_patients_are_split_by_time(results, temporal, tmp_path):
    title = "Validation and test by group of years"
    assert title in build_page(Results(temporal), About())
    assert year_groups_table(results, below=10) == ()
    assert title not in build_page(results, About())
    write_page(Results(temporal), tmp_path, About())
    assert (tmp_path / "tables/year_groups.csv").is_file()


def test_without_predictions_of_val_only_test_is_shown(temporal, tmp_path):
    shutil.copytree(temporal, tmp_path / "results", symlinks=True)
    shutil.rmtree(tmp_path / "results/analysis")
    (layout,) = year_groups_table(Results(tmp_path / "results"), below=10)
    values = layout.frame.filter(task="readmission", metric="auroc")
    assert values.filter(split="val")["value"].null_count() == 1
    assert values.filter(year_group="2017 - 2019")["value"].null_count() == 0


def test_the_command_writes_the_page_and_the_tables(output, temporal, tmp_path):
    words = ["temporal-split", "--random", str(output), "--temporal", str(temporal), "--out", str(tmp_path / "made")]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "made/page.html").read_text()
    assert "SYNTHETIC DATA" in page and "REA AUROC" in page and "test, 2020 - 2022" in page
    made = {path.name for path in (tmp_path / "made/tables").iterdir()}
    assert made == {f"{stem}.{end}" for stem in ("temporal_losses", "year_groups") for end in ("csv", "md", "tex")}
