"""The paper's tables against numbers that are recomputed here from metrics.json."""

from __future__ import annotations

import json
import shutil
import statistics

import pytest

from flexcare_model.report import tables
from flexcare_model.report.results import SIX_TASKS, Results


def values_of(output, model, experiment, task, metric):
    files = sorted((output / "runs" / model / experiment).glob("seed*/metrics.json"))
    return [json.loads(path.read_text())["metrics"][task][metric] for path in files]


def test_table3_is_mean_and_sample_deviation_over_seeds(output, results):
    compared, _ = tables.table3(results)
    rows = compared.frame.to_dicts()
    assert len(rows) == 7 * 6 * 2
    for row in rows:
        values = values_of(output, row["model"], row["experiment"], row["task"], row["metric"])
        assert row["mean"] == pytest.approx(statistics.mean(values))
        assert row["std"] == pytest.approx(statistics.stdev(values))
        assert row["difference"] == pytest.approx(row["mean"] - row["published"])


def test_exactly_the_best_of_each_block_and_metric_is_bold(results):
    for name, builder in tables.TABLES.items():
        frame = builder(results)[0].frame
        for (_, metric), block in frame.group_by("block", "metric"):
            best = block.filter(block["best"])["mean"].round(4).unique().to_list()
            assert best == [block["mean"].round(4).max()], (name, metric)


def test_ties_at_four_decimals_are_all_bold(tmp_path):
    for model, value in (("medfuse", 0.80001), ("mt", 0.80002), ("mmf", 0.7)):
        folder = tmp_path / "runs" / model / "readmission" / "seed1"
        folder.mkdir(parents=True)
        metrics = {"readmission": {"auroc": value, "auprc": value}}
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "n": {"readmission": 50}}))
    frame = tables.table3(Results(tmp_path))[0].frame.filter(tables.pl.col("task") == "readmission")
    assert set(frame.filter("best")["model"]) == {"medfuse", "mt"}
    assert frame.filter("best")["std"].is_null().all()


def test_what_is_not_run_is_named_and_nothing_fails(output, tmp_path):
    shutil.copytree(output / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/mt")
    shutil.rmtree(tmp_path / "runs/mmf/readmission/seed42")
    compared, wide = tables.table3(Results(tmp_path), seeds=(40, 42))
    assert "Not run: MT (IHM, LOS, DEC, PHE, REA, DIA)." in compared.notes
    assert "MMF (REA): 1 of 2 seeds, without 42." in compared.notes
    assert "not run" in compared.to_markdown()
    assert "| MT | – |" in wide.to_markdown()


def test_an_empty_output_folder_gives_tables_that_say_so(tmp_path):
    results = Results(tmp_path)
    assert "Not built: IHM, LOS, DEC, PHE, REA, DIA, DRG" in tables.table2(results, below=10).to_markdown()
    for builder in tables.TABLES.values():
        for layout in builder(results, seeds=(40,)):
            assert "Not run" in layout.to_markdown()


def test_table2_counts_missing_modalities(results):
    frame = tables.table2(results, below=10).frame
    cohort = results.cohorts["diagnosis"]
    row = frame.row(by_predicate=tables.pl.col("task") == "diagnosis", named=True)
    assert row["samples"] == cohort.height
    assert row["missing_time_series_percent"] == pytest.approx(100 * cohort["stay_id"].null_count() / cohort.height)
    assert row["samples_published"] == 132_576
    assert row["missing_image_percent"] == 0


def test_published_numbers_are_complete():
    frame = tables.published()
    assert frame.filter(item="table3").height == 7 * 6 * 2
    assert frame.filter(item="table5").height == 7 * 2 * 2
    assert frame.filter(item="table6").height == 2 * 6 * 2
    for task in SIX_TASKS:
        flexcare = frame.filter(item="table3", method="flexcare", experiment="six_tasks", task=task)
        assert flexcare.height == 2
    assert frame.filter(item="table2", task="diagnosis", metric="missing_note")["value"].item() == 32.56


def test_latex_and_markdown_hold_the_same_numbers(results):
    compared, _ = tables.table3(results)
    latex, markdown = compared.to_latex(), compared.to_markdown()
    assert latex.count("\\textbf{") == markdown.count("**") // 2
    assert latex.count("\\\\") == len(compared.rows) + 1
    for row in compared.rows:
        assert row[2].text in latex and row[2].text in markdown


def test_files_are_written_with_equal_bytes_twice(results, tmp_path):
    for folder in ("a", "b"):
        for layout in tables.table3(results):
            layout.write(tmp_path / folder)
    first = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in first] == [
        f"table3{form}.{suffix}" for form in ("", "_wide") for suffix in ("csv", "md", "tex")
    ]
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in first)
