"""Small cells stay hidden, also from subtraction."""

from __future__ import annotations

from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from flexcare_model.report import facts
from flexcare_model.report.results import Results
from flexcare_model.report.suppression import HIDDEN, funnel_texts, partition_texts, share_text

BELOW = 10
counts = st.lists(st.integers(0, 400), min_size=1, max_size=8)


@given(counts)
def test_no_small_cell_of_a_partition_is_shown_or_recoverable(values):
    texts = partition_texts(values, BELOW)
    hidden = [value for value, text in zip(values, texts, strict=True) if text == HIDDEN or text.startswith("<")]
    shown = [value for value, text in zip(values, texts, strict=True) if text.isdigit()]
    assert all(value == 0 or value >= BELOW for value in shown)
    # With the total known, one hidden cell is no secret unless it is the only one above zero.
    assert len(hidden) != 1 or all(value == 0 for value in shown)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_no_two_shown_counts_of_a_funnel_differ_by_a_small_number(steps):
    falling = sorted(steps, reverse=True)
    texts = funnel_texts(falling, BELOW)
    shown = [int(text) for text in texts if text is not None and text.isdigit()]
    assert all(first - second == 0 or first - second >= BELOW for first, second in pairwise(shown))
    assert all(value == 0 or value >= BELOW for value in shown)


@given(st.integers(1, 500), st.data())
def test_a_share_never_tells_a_small_part_or_a_small_rest(whole, data):
    part = data.draw(st.integers(0, whole))
    text = share_text(part, whole, BELOW)
    if 1 <= part < BELOW or 1 <= whole - part < BELOW:
        assert text[0] in "<>n"


def test_counts_below_the_configured_number_are_hidden_in_every_table(output, tmp_path):
    for folder in ("cohorts", "data"):
        (tmp_path / folder).mkdir()
    cohort = pl.read_parquet(output / "cohorts/in_hospital_mortality.parquet")
    few = pl.concat(
        [cohort.filter(pl.col("split") == "train").head(100), cohort.filter(pl.col("split") == "test").head(3)]
    )
    few.write_parquet(tmp_path / "cohorts/in_hospital_mortality.parquet")
    layout = facts.cohort_sizes(Results(tmp_path), below=BELOW)
    assert layout is not None
    cells = [cell.text for cell in layout.rows[0]]
    assert cells[2:6] == ["103", HIDDEN, "0", "<10"]
    assert "3" not in layout.frame.row(0)


def test_a_hidden_size_is_not_told_by_its_share(output, tmp_path):
    (tmp_path / "cohorts").mkdir()
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet")
    parts = [cohort.filter(pl.col("split") == split).head(n) for split, n in (("train", 120), ("val", 4), ("test", 40))]
    pl.concat(parts).write_parquet(tmp_path / "cohorts/readmission.parquet")
    (layout,) = facts.prevalence(Results(tmp_path), below=BELOW)
    cells = [cell.text for cell in layout.rows[0]]
    assert cells[2::2] == ["120", "<10", HIDDEN]
    assert cells[3::2] == [HIDDEN, HIDDEN]
