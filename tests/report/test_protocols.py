"""The comparison of the two protocols, counted by hand."""

from __future__ import annotations

import re

import polars as pl
import pytest

from flexcare_data.protocol import PROTOCOLS
from flexcare_model.report.page import About
from flexcare_model.report.protocols import build_comparison, comparison_page
from flexcare_model.report.results import Results


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
    _, sizes, labels, _ = layouts
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


def test_the_page_stands_alone_and_says_what_is_missing(layouts):
    page = comparison_page(layouts, About(), synthetic=True)
    assert "SYNTHETIC DATA" in page
    assert "No method was trained under both protocols" in page
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'(?:src|href)="([^"]*)"', page))
