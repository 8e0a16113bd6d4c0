"""The comparison of the two protocols, counted by hand."""

from __future__ import annotations

import json
import re
import shutil

import polars as pl
import pytest

from flexcare_data.options import PROTOCOLS
from flexcare_model.report.about import About
from flexcare_model.report.numbers.prices import life_and_death, values_not_stored
from flexcare_model.report.numbers.protocols import build_comparison
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.comparison import comparison_page


@pytest.fixture(scope="module")
def layouts(output, tmp_path_factory):
    """Corrected: 20 samples of readmission less, 15 other labels, all in another split."""
    folder = tmp_path_factory.mktemp("corrected")
    (folder / "cohorts").mkdir()
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet").slice(20)
    flipped = pl.when(pl.int_range(pl.len()) < 15).then(1 - pl.col("label")).otherwise(pl.col("label"))
    split = pl.lit("val").cast(cohort.schema["split"])
    cohort.with_columns(label=flipped, split=split).write_parquet(folder / "cohorts/readmission.parquet")
    return build_comparison(Results(output), Results(folder), below=10)


def row_of(layout, task):
    return layout.frame.row(by_predicate=pl.col("task") == task, named=True)


def test_sizes_and_changes_are_counted(layouts, results):
    _, sizes, labels, *_ = layouts
    n = results.cohorts["readmission"].height
    assert row_of(sizes, "readmission")["in_both"] == str(n - 20)
    assert row_of(sizes, "readmission")["only_flexcare"] == "20"
    assert row_of(labels, "readmission")["label"] == "15"
    moved = results.cohorts["readmission"].slice(20).filter(pl.col("split") != "val").height
    assert row_of(labels, "readmission")["split"] == str(moved)
    assert row_of(labels, "readmission")["note_id"] == "0"
    assert "not built" in sizes.to_markdown()


def test_every_option_that_differs_is_explained(layouts):
    first, second = (PROTOCOLS[name].model_dump() for name in ("flexcare", "corrected"))
    assert set(layouts[0].frame["option"]) == {name for name in first if first[name] != second[name]}
    assert (layouts[0].frame["meaning"].str.len_chars() > 20).all()


def test_samples_of_both_are_hidden_where_they_reveal_a_small_rest(output, tmp_path):
    """Three samples less: neither table may show how many are in both, because the sizes are shown next to it."""
    (tmp_path / "cohorts").mkdir()
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet")
    cohort.slice(3).write_parquet(tmp_path / "cohorts/readmission.parquet")
    _, sizes, labels, *_ = build_comparison(Results(output), Results(tmp_path), below=10)
    shown = row_of(sizes, "readmission")
    assert [shown[name] for name in ("in_both", "only_flexcare", "only_corrected")] == ["n.s.", "<10", "n.s."]
    assert labels.rows[0][1].text == "n.s."


def test_the_corrections_of_life_and_death_are_counted(output, tmp_path):
    """Used on one side, left out on the other; small counts and those near the size of the cohort are hidden."""
    n = pl.read_parquet(output / "cohorts/phenotyping.parquet").height
    counts = {
        "admissions": {"": {"after_death_but_used": 12, "nested_but_used": 3, "repeated_key": 50}},
        "patients": {"dod": {"over_a_year_before_admission_but_used": 20}},
        "in_hospital_mortality": {"": {"dead_at_prediction_time_but_asked": 1234}},
        "readmission": {"": {"nested_admission_but_counted": n - 2, "after_death_but_used": 4}},
    }
    left_out = {
        "admissions": {"": {"after_death": 12, "nested": 3}},
        "patients": counts["patients"],
        "in_hospital_mortality": {"": {"dead_at_prediction_time": 1234}},
    }
    for folder, content in ((tmp_path / "one", counts), (tmp_path / "two", left_out)):
        (folder / "data").mkdir(parents=True)
        (folder / "data/dropped.json").write_text(json.dumps(content))
        (folder / "cohorts").mkdir()
        shutil.copy(output / "cohorts/readmission.parquet", folder / "cohorts")
    layout = life_and_death(Results(tmp_path / "one"), Results(tmp_path / "two"), ("flexcare", "corrected"), below=10)
    assert {(option, what): pair for option, what, *pair in layout.frame.rows()} == {
        ("after_death", "admissions after the patient's death"): ["12", "12"],
        ("nested", "admissions that begin before an earlier discharge"): ["<10", "<10"],
        ("–", "patients with a dod over a year before an admission"): ["20", "20"],
        ("–", "deathtimes over a year before an admission"): ["0", "0"],
        ("asked", "IHM: samples asked after the patient's death"): ["1234", "0"],
        ("after_death", "REA: samples of an admission after the patient's death"): ["<10", "0"],
        ("nested", "REA: answers that rest on a nested admission"): ["n.s.", "0"],
    }
    absent = life_and_death(Results(tmp_path / "one"), Results(tmp_path / "none"), ("flexcare", "corrected"), below=10)
    assert set(absent.frame["corrected"]) == {None} and "not built" in absent.to_markdown()


def test_values_that_were_not_stored_are_counted(output, tmp_path):
    """As both certificates say; few samples, and all but a few, are hidden."""
    n = pl.read_parquet(output / "cohorts/phenotyping.parquet").height
    certificates = {
        "flexcare": {
            "readmission": {"by_design": 1500, "samples": 40},
            "decompensation": {"by_design": 9, "samples": 3},
            "phenotyping": {"by_design": 70, "samples": n - 2},
        },
        "corrected": {name: {"violations": 0} for name in ("readmission", "decompensation", "phenotyping")},
    }  # fmt: skip
    sides = []
    for side, tasks in certificates.items():
        shutil.copytree(output / "cohorts", tmp_path / side / "cohorts", symlinks=False)
        checks = {name: {"value_stored_after_prediction": found} for name, found in tasks.items()}
        (tmp_path / side / "data").mkdir()
        (tmp_path / side / "data/leakage.json").write_text(json.dumps({"tasks": checks}))
        sides.append(Results(tmp_path / side))
    layout = values_not_stored(*sides, ("flexcare", "corrected"), below=10)
    assert layout.frame.rows() == [
        ("decompensation", "<10", "<10", "0", "0"),
        ("phenotyping", "n.s.", "n.s.", "0", "0"),
        ("readmission", "1500", "40", "0", "0"),
    ]
    assert values_not_stored(sides[0], Results(tmp_path / "none"), ("flexcare", "corrected"), below=10).rows


def test_metrics_of_methods_trained_under_both_protocols(output, tmp_path):
    """FlexCare was trained under both, with another number for one task; everything else under one only."""
    shutil.copytree(output / "runs/flexcare/six_tasks", tmp_path / "runs/flexcare/six_tasks")
    means = []
    for path in (tmp_path / "runs").rglob("metrics.json"):
        content = json.loads(path.read_text())
        means.append(content["metrics"]["readmission"]["auroc"])
        content["metrics"]["readmission"]["auroc"] = 0.25
        path.write_text(json.dumps(content))
    layout = build_comparison(Results(output), Results(tmp_path), below=10)[-1]
    assert set(layout.frame["method"]) == {"FlexCare"}
    assert layout.frame.height == 12
    row = layout.frame.row(by_predicate=(pl.col("task") == "readmission") & (pl.col("metric") == "auroc"), named=True)
    assert row["flexcare"] == pytest.approx(sum(means) / len(means))
    assert row["corrected"] == pytest.approx(0.25)
    assert f"{0.25 - row['flexcare']:+.4f}".replace("-", "−") in layout.to_markdown()


def test_the_page_is_self_contained_and_names_what_is_missing(layouts):
    page = comparison_page(layouts, About(), synthetic=True)
    assert "SYNTHETIC DATA" in page
    assert "No method was trained under both protocols" in page
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'(?:src|href)="([^"]*)"', page))


def with_auroc(output, folder, value):
    """The runs of FlexCare of ``output``, with another AUROC of readmission."""
    shutil.copytree(output / "runs/flexcare/six_tasks", folder / "runs/flexcare/six_tasks")
    for path in (folder / "runs").rglob("metrics.json"):
        content = json.loads(path.read_text())
        content["metrics"]["readmission"]["auroc"] = value
        path.write_text(json.dumps(content))
    return Results(folder)


def test_an_option_alone_is_priced(output, tmp_path):
    """Its own column and difference; a dash where nothing was trained with it."""
    sides = [with_auroc(output, tmp_path / name, value) for name, value in (("a", 0.75), ("b", 0.625), ("c", 0.7))]
    layout = build_comparison(sides[0], sides[1], below=10, alone={"availability": sides[2]})[-1]
    differences = ("corrected − flexcare", "availability − flexcare")
    assert layout.header[2:] == ("flexcare", "corrected", "availability", *differences)
    is_row = (pl.col("task") == "readmission") & (pl.col("metric") == "auroc")
    row = layout.frame.row(by_predicate=is_row, named=True)
    assert [row[side] for side in layout.header[2:5]] == pytest.approx([0.75, 0.625, 0.7])
    (cells,) = [row for row in layout.rows if row[0].text == "REA AUROC"]
    assert [cell.text for cell in cells[5:]] == ["−0.1250", "−0.0500"]
    assert "`availability: storetime`" in layout.to_markdown()
    empty = build_comparison(sides[0], sides[1], below=10, alone={"availability": Results(tmp_path / "none")})[-1]
    (cells,) = [row for row in empty.rows if row[0].text == "REA AUROC"]
    assert [cell.text for cell in cells[4:]] == ["not run", "−0.1250", "–"]
