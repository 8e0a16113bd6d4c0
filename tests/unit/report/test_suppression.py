"""Small cells stay hidden, also from subtraction."""

from __future__ import annotations

import json
from itertools import pairwise, product

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from flexcare_model.report.numbers import facts
from flexcare_model.report.numbers.flow import flow_diagrams
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.suppression import HIDDEN, funnel_texts, partition_texts, share_text

BELOW = 10
counts = st.lists(st.one_of(st.integers(0, 400), st.sampled_from([1, 2, 9, 10, 11])), min_size=1, max_size=5)


@given(counts)
def test_no_small_cell_of_a_partition_is_shown_or_recoverable(values):
    texts = partition_texts(values, BELOW)
    hidden = [
        (value, text) for value, text in zip(values, texts, strict=True) if text == HIDDEN or text.startswith("<")
    ]
    shown = [value for value, text in zip(values, texts, strict=True) if text.isdigit()]
    assert all(value == 0 or value >= BELOW for value in shown)
    if any(shown) and hidden:
        # All ways to divide what is hidden that the bounds allow: no small cell has the same value in each.
        ways = divisions(sum(value for value, _ in hidden), [text for _, text in hidden])
        for position, (_, text) in enumerate(hidden):
            assert text == HIDDEN or len({way[position] for way in ways}) > 1


def divisions(total: int, texts: list[str]) -> list[tuple[int, ...]]:
    """Values of hidden cells with the sum ``total``, None for those that are not small."""
    small = [range(1, BELOW) if text != HIDDEN else (None,) for text in texts]
    rest = [text for text in texts if text == HIDDEN]
    found = []
    for way in product(*small):
        left = total - sum(value for value in way if value is not None)
        if (left == 0 and not rest) or (rest and left >= BELOW * len(rest)):
            found.append(way)
    return found


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_no_two_shown_counts_of_a_funnel_differ_by_a_small_number(steps):
    falling = sorted(steps, reverse=True)
    texts = funnel_texts(falling, BELOW)
    shown = [int(text) for text in texts if text is not None and text.isdigit()]
    assert all(first - second == 0 or first - second >= BELOW for first, second in pairwise(shown))
    assert all(value == 0 or value >= BELOW for value in shown)


@given(st.integers(1, 500), st.data())
def test_a_share_never_reveals_a_small_part_or_a_small_rest(whole, data):
    part = data.draw(st.integers(0, whole))
    text = share_text(part, whole, BELOW)
    if 1 <= part < BELOW or 1 <= whole - part < BELOW:
        assert text[0] in "<>n"


def test_diagrams_and_tables_together_reveal_no_small_number(tmp_path):
    """56 stays in the cohort, 59 in the diagram before it: the three that were left out must not be computable."""
    for folder in ("cohorts", "data"):
        (tmp_path / folder).mkdir()
    rows = {"subject_id": list(range(56)), "split": ["train"] * 56, "label": [0] * 56}
    pl.DataFrame(rows).write_parquet(tmp_path / "cohorts/readmission.parquet")
    flow = {
        "stays": [{"step": "a", "stays": 71, "patients": 60}, {"step": "b", "stays": 59, "patients": 57}],
        "series": [{"step": "c", "stays": 60}],
        "readmission": [{"step": "d", "stays": 58}, {"step": "e", "samples": 56}],
    }
    (tmp_path / "data/flow.json").write_text(json.dumps(flow))
    diagrams = flow_diagrams(Results(tmp_path), below=BELOW)
    texts = {name: [dict(step.counts) for step in steps] for name, steps in diagrams.items()}
    assert texts["stays"] == [{"stays": "71", "patients": None}, {"stays": None, "patients": None}]
    assert texts["series"] == [{"stays": None}]
    assert texts["readmission"] == [{"stays": None}, {"samples": "56"}]


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


def test_a_hidden_size_is_not_revealed_by_its_share(output, tmp_path):
    (tmp_path / "cohorts").mkdir()
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet")
    parts = [cohort.filter(pl.col("split") == split).head(n) for split, n in (("train", 120), ("val", 4), ("test", 40))]
    pl.concat(parts).write_parquet(tmp_path / "cohorts/readmission.parquet")
    (layout,) = facts.prevalence(Results(tmp_path), below=BELOW)
    cells = [cell.text for cell in layout.rows[0]]
    assert cells[2::2] == ["120", "<10", HIDDEN]
    assert cells[3::2] == [HIDDEN, HIDDEN]
